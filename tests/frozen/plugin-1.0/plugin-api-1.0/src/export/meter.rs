use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::abi::MemoryInfo;

/// Counts the memory that a device uses. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    used: AtomicU64,
    peak: AtomicU64,
}

/// Bytes that count as used until this is dropped.
#[derive(Debug)]
pub struct Lease {
    meter: Meter,
    bytes: u64,
}

impl Meter {
    /// Counts so many bytes as used.
    pub fn lease(&self, bytes: usize) -> Lease {
        let bytes = bytes as u64;
        let before = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        self.0.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Lease { meter: self.clone(), bytes }
    }

    /// Bytes in use and the largest number of them; nothing else is known.
    pub fn info(&self) -> MemoryInfo {
        let used = self.0.used.load(Ordering::Relaxed);
        MemoryInfo { used, peak: self.0.peak.load(Ordering::Relaxed).max(used), ..MemoryInfo::default() }
    }

    /// Sets the peak to what is in use now.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.0.used.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.meter.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_leases_end_until_it_is_reset() {
        let meter = Meter::default();
        let first = meter.lease(100);
        drop(meter.lease(50));
        drop(first);
        let rest = meter.lease(7);
        assert_eq!((meter.info().used, meter.info().peak), (7, 150));
        meter.reset_peak();
        assert_eq!((rest.bytes, meter.info().peak), (7, 7));
    }
}

//! Which device is tried first.

use std::cmp::{Ordering, Reverse};

use super::probe::ProbedDevice;

/// A device and the name of its plugin, to be compared with others.
pub(super) struct Candidate<'a> {
    pub plugin: &'a str,
    pub device: &'a ProbedDevice,
}

/// The order as declared, nothing being measured: what is not the processor first, then the larger memory, then
/// the plugin that bears the kind's name, being made for it alone, then by name and number, so that the order never
/// depends on the order of finding.
pub(super) fn compare(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let key = |candidate: &Candidate<'_>| {
        let (device, plugin) = (candidate.device, candidate.plugin);
        (device.kind == "cpu", Reverse(device.memory_total), plugin != device.kind)
    };
    let by_name = || (a.plugin, a.device.index).cmp(&(b.plugin, b.device.index));
    key(a).cmp(&key(b)).then_with(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_come_before_the_processor_then_memory_then_the_kinds_own_then_name() {
        let device = |kind: &str, memory_total, index| ProbedDevice {
            index,
            name: String::new(),
            kind: kind.into(),
            memory_total,
            memory_available: 0,
            unified: false,
            dtypes: vec![],
        };
        let small_gpu = device("gpu", 8, 1);
        let large_gpu = device("gpu", 80, 0);
        let cpu = device("cpu", 512, 0);
        let mut order = [
            Candidate { plugin: "b", device: &cpu },
            Candidate { plugin: "c", device: &small_gpu },
            Candidate { plugin: "a", device: &cpu },
            Candidate { plugin: "cpu", device: &cpu },
            Candidate { plugin: "c", device: &large_gpu },
        ];
        order.sort_by(compare);
        let order: Vec<_> = order.iter().map(|c| (c.plugin, c.device.memory_total)).collect();
        assert_eq!(order, [("c", 80), ("c", 8), ("cpu", 512), ("a", 512), ("b", 512)]);
    }
}

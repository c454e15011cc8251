//! How fast the devices are, where that decides which one is used.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cache::{self, Cache, Measured, Stamp};
use super::catalog::Catalog;
use super::prober::{Prober, Unmeasured};
use super::row::{DeviceRow, Row};
use super::trust;

/// Devices of one plugin that are measured; a machine has at most 16 of a kind, and a plugin could claim any number.
const MAX_DEVICES: usize = 16;
/// After so long no further device is begun: nobody waits for more.
const MAX_TIME: Duration = Duration::from_secs(240);

impl Catalog {
    /// Measures every device that `backend` may mean and that has not been, at each of these element types that it
    /// has, in a child and one at a time; keeps the speeds, and failures that may last. `tell` hears of each before it
    /// begins.
    pub fn measure(&mut self, prober: &Prober, backend: &str, dtypes: &[&str], mut tell: impl FnMut(&str)) {
        let meant: Vec<PathBuf> = self.of_backend(backend).map(|row| row.path.clone()).collect();
        let mut cache = Cache::read(prober.cache.as_deref());
        let began = Instant::now();
        for row in self.plugins.iter_mut().filter(|row| meant.contains(&row.path)) {
            let Row { path, manifest: Some(manifest), devices, stamp, .. } = row else { continue };
            for (number, device) in devices.iter_mut().enumerate() {
                let index = device.device.index;
                for &dtype in dtypes {
                    if !device.device.dtypes.iter().any(|has| has == dtype)
                        || device.measured.contains_key(dtype)
                    {
                        continue;
                    }
                    let name = format!("{}:{index} in {dtype}", manifest.name);
                    let asked = match reason_to_skip(number, began.elapsed(), device) {
                        Some(skipped) => Err(skipped),
                        None => {
                            tell(&name);
                            let speed = prober.measure(path, manifest, index, dtype);
                            let now = trust::look(path).ok().map(|now| Stamp::of(&now));
                            if now == *stamp { speed } else { Err(changed()) }
                        }
                    };
                    tracing::info!("{name}: {asked:?}");
                    let lasting = asked.as_ref().map_or_else(|failure| failure.lasting, |_| true);
                    let measured = match asked {
                        Ok(speed) => Measured::Speed(speed),
                        Err(Unmeasured { reason, late, .. }) => Measured::Failed { failed: reason, late },
                    };
                    device.measured.insert(dtype.to_owned(), measured.clone());
                    if lasting {
                        cache.add_measured(path, cache::measurement_key(index, dtype), measured);
                    }
                }
            }
        }
        cache.write();
    }
}

/// What was measured is not the file that was asked for its devices.
fn changed() -> Unmeasured {
    let reason = "was changed while it was measured".into();
    Unmeasured { reason, lasting: false, late: false }
}

/// Why a device is not measured: its plugin claims too many, all together take too long, or it did not come to an end
/// at another element type.
fn reason_to_skip(number: usize, elapsed: Duration, device: &DeviceRow) -> Option<Unmeasured> {
    let skipped = |reason: String, lasting| Some(Unmeasured { reason, lasting, late: false });
    if number >= MAX_DEVICES {
        return skipped(format!("only the first {MAX_DEVICES} devices of a plugin are measured"), true);
    }
    let late =
        device.measured.iter().find(|(_, measured)| matches!(measured, Measured::Failed { late: true, .. }));
    if let Some((dtype, _)) = late {
        return skipped(format!("was not tried, because in {dtype} it took too long"), true);
    }
    match elapsed >= MAX_TIME {
        true => skipped("was not tried, because measuring the others took too long".into(), false),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::ProbedDevice;
    use super::*;

    /// A plugin that lists hundreds of devices, or whose devices hang, does not keep anybody waiting for each.
    #[test]
    fn what_would_take_too_long_is_not_measured() {
        let device = |dtype: &str, late| {
            let mut row = DeviceRow::of(ProbedDevice {
                index: 0,
                name: String::new(),
                kind: "gpu".into(),
                memory_total: 0,
                memory_available: 0,
                unified: false,
                dtypes: vec!["f32".into(), "bf16".into()],
                details: serde_json::Map::new(),
            });
            row.measured.insert(dtype.into(), Measured::Failed { failed: "f".into(), late });
            row
        };
        let soon = Duration::from_secs(1);
        assert!(reason_to_skip(MAX_DEVICES - 1, soon, &device("f32", false)).is_none());
        let reason = |number, elapsed, row: &DeviceRow| reason_to_skip(number, elapsed, row).unwrap().reason;
        assert!(reason(MAX_DEVICES, soon, &device("f32", false)).contains("only the first 16"));
        assert!(reason(0, soon, &device("f32", true)).contains("in f32 it took too long"));
        let skipped = reason_to_skip(0, MAX_TIME, &device("f32", false)).unwrap();
        assert!(!skipped.lasting, "another time there may be time");
    }
}

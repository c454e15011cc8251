//! Asks a plugin what hardware it can use.

use std::path::Path;

use finetune_plugin_api::abi::{DeviceInfo, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::load::{Refusal, load};
use super::manifest::Manifest;

/// What came of asking. It can be written down and read again, so that the asking can be done elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ProbeReport {
    /// It has devices.
    Ready {
        /// At least one.
        devices: Vec<ProbedDevice>,
    },
    /// It works, but there is nothing for it to drive.
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It cannot be used.
    Refused {
        /// The end of a sentence that begins with the file's name.
        reason: String,
        /// Whether it will be the same as long as the file is.
        lasting: bool,
    },
}

/// Devices that a plugin may list: more are a mistake, and nobody reads so long a table.
const MOST_DEVICES: usize = 64;
/// Characters of a name and of a reason.
const LONGEST_NAME: usize = 120;
const LONGEST_REASON: usize = 1000;
/// Bytes of what else is said of a device: more is left out.
const LONGEST_DETAILS: usize = 2000;

impl ProbeReport {
    /// The report as it can be relied on, wherever it comes from.
    pub(super) fn checked(self) -> ProbeReport {
        match self {
            ProbeReport::Ready { devices } => report(devices),
            ProbeReport::Unavailable { reason } => {
                ProbeReport::Unavailable { reason: shortened(reason, LONGEST_REASON) }
            }
            ProbeReport::Refused { reason, lasting } => {
                ProbeReport::Refused { reason: shortened(reason, LONGEST_REASON), lasting }
            }
        }
    }

    /// Refused for good.
    pub(super) fn refused(reason: impl Into<String>) -> ProbeReport {
        ProbeReport::Refused { reason: reason.into(), lasting: true }
    }

    /// Whether the same file would say the same the next time: not what it says of hardware that is not there.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            ProbeReport::Ready { .. } => true,
            ProbeReport::Unavailable { .. } => false,
            ProbeReport::Refused { lasting, .. } => *lasting,
        }
    }
}

fn shortened(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A device as its plugin describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbedDevice {
    /// What the plugin calls it.
    pub index: u32,
    /// What a person calls it.
    pub name: String,
    /// `cpu`, `gpu`, or another word.
    pub kind: String,
    /// Bytes; 0 where unknown.
    pub memory_total: u64,
    /// Bytes; 0 where unknown.
    pub memory_available: u64,
    /// Whether its memory is the processor's.
    pub unified: bool,
    /// Element types by name.
    pub dtypes: Vec<String>,
    /// What else the plugin says of it: version of a library, architecture.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

/// Loads a plugin and asks it.
pub fn probe(path: &Path, manifest: &Manifest) -> ProbeReport {
    let module = match load(path, manifest) {
        Ok(module) => module,
        Err(Refusal { reason, lasting }) => return ProbeReport::Refused { reason, lasting },
    };
    match module.probe()("{}".into()).into_result() {
        Ok(devices) => report(devices.iter().map(ProbedDevice::from).collect()),
        Err(error) => {
            let message = error.message.into_string();
            match ErrorKind::from_code(error.kind) {
                ErrorKind::Unavailable => ProbeReport::Unavailable { reason: message },
                kind => ProbeReport::Refused {
                    reason: format!("failed when it was asked for devices: {}: {message}", kind.words()),
                    // A device that is busy or was lost may be there again.
                    lasting: !matches!(kind, ErrorKind::OutOfMemory | ErrorKind::DeviceLost),
                },
            }
        }
    }
}

fn report(mut devices: Vec<ProbedDevice>) -> ProbeReport {
    if devices.is_empty() {
        return ProbeReport::Unavailable { reason: "it found no device that it could use".into() };
    }
    if devices.len() > MOST_DEVICES {
        let count = devices.len();
        return ProbeReport::refused(format!(
            "is faulty: it lists {count} devices, at most {MOST_DEVICES} can be"
        ));
    }
    for device in &mut devices {
        for text in [&mut device.name, &mut device.kind].into_iter().chain(&mut device.dtypes) {
            *text = shortened(std::mem::take(text), LONGEST_NAME);
        }
        device.dtypes.truncate(MOST_DEVICES);
        if Value::from(device.details.clone()).to_string().len() > LONGEST_DETAILS {
            device.details.clear();
        }
    }
    for (i, device) in devices.iter().enumerate() {
        if devices[..i].iter().any(|earlier| earlier.index == device.index) {
            let number = device.index;
            return ProbeReport::refused(format!("is faulty: it lists two devices with the number {number}"));
        }
    }
    ProbeReport::Ready { devices }
}

impl From<&DeviceInfo> for ProbedDevice {
    fn from(info: &DeviceInfo) -> ProbedDevice {
        ProbedDevice {
            index: info.index,
            name: info.name.to_string(),
            kind: info.kind.to_string(),
            memory_total: info.memory_total,
            memory_available: info.memory_available,
            unified: info.unified,
            dtypes: info.dtypes.iter().map(ToString::to_string).collect(),
            details: serde_json::from_str(&info.details).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32) -> ProbedDevice {
        let name = "d".into();
        let (kind, dtypes) = ("cpu".into(), vec!["f32".into()]);
        let details = Map::from_iter([("mlx".into(), "0.32.2".into())]);
        ProbedDevice {
            index,
            name,
            kind,
            memory_total: 1,
            memory_available: 1,
            unified: true,
            dtypes,
            details,
        }
    }

    /// `NAME:DEVICE` must mean one device.
    #[test]
    fn devices_have_numbers_of_their_own() {
        assert!(matches!(report(vec![device(0), device(1)]), ProbeReport::Ready { .. }));
        assert!(matches!(report(vec![device(1), device(1)]), ProbeReport::Refused { .. }));
        assert!(matches!(report(vec![]), ProbeReport::Unavailable { .. }));
    }

    /// What a plugin says goes into a table and a file; it must not fill either.
    #[test]
    fn a_plugin_cannot_say_too_much() {
        assert!(matches!(report((0..64).map(device).collect()), ProbeReport::Ready { .. }));
        assert!(matches!(report((0..65).map(device).collect()), ProbeReport::Refused { .. }));
        let long = "é".repeat(1 << 20);
        let details = Map::from_iter([("more".into(), long.as_str().into())]);
        let named =
            ProbedDevice { name: long.clone(), dtypes: vec![long.clone(); 1000], details, ..device(0) };
        let reports = [
            ProbeReport::Ready { devices: vec![named] },
            ProbeReport::refused(long.clone()),
            ProbeReport::Unavailable { reason: long },
        ];
        for report in reports {
            let text = serde_json::to_string(&report.checked()).unwrap();
            assert!(text.len() < 20_000, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_report_survives_being_written_down() {
        for report in [
            ProbeReport::Ready { devices: vec![device(3)] },
            ProbeReport::Unavailable { reason: "no driver".into() },
            ProbeReport::refused("panicked"),
            ProbeReport::Refused { reason: "needs libx.so".into(), lasting: false },
        ] {
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<ProbeReport>(&text).unwrap(), report);
        }
    }
}

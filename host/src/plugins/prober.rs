//! Asks plugins in child processes, at most once for what stays the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use finetune_plugin_api::abi::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::any_path;

use super::cache::{self, Speed};
#[cfg(unix)]
use super::child::{self, Bounds, Failure};
use super::device::Device;
use super::error::PluginError;
use super::manifest::Manifest;
use super::probe::{ProbeReport, probe};

/// How long a plugin may take to say which devices it has, where nobody says otherwise.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a device may take for the calibration step at one precision, where nobody says otherwise.
pub const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);

/// Who asks plugins, and where the answers are kept.
#[derive(Clone, Debug)]
pub struct Prober {
    /// The program to start as a child: it answers to [`child::SUBCOMMAND`].
    pub(super) program: PathBuf,
    /// The folder of the cache, if there is one.
    pub(super) cache: Option<PathBuf>,
    pub(super) timeout: Duration,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no children"))]
    measure_timeout: Duration,
    /// Bytes that a child may have while it probes; none is a share of the machine's.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no children"))]
    memory: Option<u64>,
}

/// What a child is asked to do.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    #[serde(with = "any_path::path")]
    path: PathBuf,
    manifest: Manifest,
    /// The device to measure; none asks which there are.
    measure: Option<(u32, String)>,
}

/// What a child says of a measurement.
type MeasureReport = Result<Speed, Unmeasured>;

/// What came of asking.
pub(super) struct Asked {
    pub report: ProbeReport,
    /// How long it was waited for, if it did not answer.
    pub waited: Option<Duration>,
}

/// Why a device has no speed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unmeasured {
    /// The end of a sentence that begins with the plugin's file name.
    pub reason: String,
    /// Whether it would be the same the next time.
    pub lasting: bool,
    /// Whether it did not come to an end.
    pub late: bool,
}

impl Unmeasured {
    /// A failure of the device that it would have again.
    pub fn lasting(reason: String) -> Unmeasured {
        Unmeasured { reason, lasting: true, late: false }
    }

    /// A failure of the device in a call: one that is busy, or was lost, may do better the next time.
    pub fn of_kind(kind: ErrorKind, reason: String) -> Unmeasured {
        let passing = [ErrorKind::OutOfMemory, ErrorKind::DeviceLost, ErrorKind::Unavailable];
        Unmeasured { lasting: !passing.contains(&kind), ..Unmeasured::lasting(reason) }
    }
}

impl Prober {
    /// This very program, with the user's cache.
    pub fn new(timeout: Duration) -> std::io::Result<Prober> {
        Ok(Prober {
            program: std::env::current_exe()?,
            cache: cache::folder(),
            timeout,
            measure_timeout: MEASURE_TIMEOUT,
            memory: None,
        })
    }

    /// That program, and a cache in that folder or none.
    pub fn with(program: PathBuf, cache: Option<PathBuf>, timeout: Duration) -> Prober {
        Prober { program, cache, timeout, measure_timeout: MEASURE_TIMEOUT, memory: None }
    }

    /// The same, with at most so many bytes of memory for a plugin to say which devices it has.
    pub fn with_memory(self, bytes: u64) -> Prober {
        Prober { memory: Some(bytes), ..self }
    }

    /// The same, with so much time for a device to be measured at one element type.
    pub fn with_measure_timeout(self, measure_timeout: Duration) -> Prober {
        Prober { measure_timeout, ..self }
    }

    /// Makes the answers of the plugins of that name (or file) forgotten; says how many there were.
    pub fn forget(&self, name: &str) -> usize {
        let mut cache = cache::Cache::read(self.cache.as_deref());
        let forgotten = cache.forget(name);
        cache.write();
        forgotten
    }

    #[cfg(unix)]
    pub(super) fn probe(&self, path: &Path, manifest: &Manifest) -> Asked {
        let task = Task { path: path.into(), manifest: manifest.clone(), measure: None };
        let bounds =
            Bounds { deadline: self.timeout, memory: self.memory.unwrap_or_else(|| share_of_memory(4)) };
        let answer = child::ask(&self.program, json(&task), bounds);
        let refused = |reason: String| ProbeReport::refused(reason);
        let (report, waited) = match answer {
            Ok(value) => {
                let report = serde_json::from_value::<ProbeReport>(value);
                (report.unwrap_or_else(|_| refused("gave an answer that is none".into())), None)
            }
            Err(Failure::Late(reason)) => {
                let reason = format!("{reason} (--probe-timeout SECONDS gives it longer)");
                (refused(reason), Some(self.timeout))
            }
            Err(Failure::Died(reason)) => (refused(reason), None),
            Err(Failure::Killed(reason) | Failure::NotAsked(reason)) => {
                (ProbeReport::Refused { reason, lasting: false }, None)
            }
        };
        Asked { report: report.checked(), waited }
    }

    /// Without process groups and sockets to inherit, the plugin is asked where the host runs.
    #[cfg(not(unix))]
    pub(super) fn probe(&self, path: &Path, manifest: &Manifest) -> Asked {
        Asked { report: probe(path, manifest).checked(), waited: None }
    }

    /// The speed of a device at an element type.
    ///
    /// # Errors
    /// Why there is none.
    #[cfg(unix)]
    pub(super) fn measure(
        &self,
        path: &Path,
        manifest: &Manifest,
        device: u32,
        dtype: &str,
    ) -> Result<Speed, Unmeasured> {
        let measure = Some((device, dtype.to_string()));
        let task = Task { path: path.into(), manifest: manifest.clone(), measure };
        let bounds = Bounds { deadline: self.measure_timeout, memory: share_of_memory(2) };
        let lasting = Unmeasured::lasting;
        match child::ask(&self.program, json(&task), bounds) {
            Ok(value) => serde_json::from_value::<MeasureReport>(value)
                .unwrap_or_else(|_| Err(lasting("gave an answer that is none".into())))
                .and_then(|speed| match speed.tokens_per_s.is_finite() && speed.tokens_per_s > 0.0 {
                    true => Ok(speed),
                    false => Err(lasting(format!("gave a speed that is none: {}", speed.tokens_per_s))),
                }),
            Err(Failure::Late(reason)) => Err(Unmeasured { late: true, ..lasting(reason) }),
            Err(Failure::Died(reason)) => Err(lasting(reason)),
            Err(Failure::Killed(reason) | Failure::NotAsked(reason)) => {
                Err(Unmeasured { lasting: false, ..lasting(reason) })
            }
        }
    }

    #[cfg(not(unix))]
    pub(super) fn measure(&self, _: &Path, _: &Manifest, _: u32, _: &str) -> Result<Speed, Unmeasured> {
        Err(Unmeasured {
            reason: "devices are not measured on this system".into(),
            lasting: false,
            late: false,
        })
    }
}

/// The child's part: does what the host that started this process asks for. `measure` runs the calibration step on a
/// device at an element type.
///
/// # Errors
/// This process was not started by the host.
#[cfg(unix)]
pub fn answer_as_child(
    measure: impl FnOnce(&Device, &str) -> Result<Speed, Unmeasured>,
) -> std::io::Result<()> {
    super::worker::answer(|task| {
        let task: Task = match serde_json::from_value(task) {
            Ok(task) => task,
            Err(error) => return json(&format!("the question is none: {error}")),
        };
        match &task.measure {
            None => json(&probe(&task.path, &task.manifest)),
            Some((device, dtype)) => {
                let opened = Device::open(&task.path, &task.manifest, *device, &serde_json::Map::new());
                let opened = opened.map_err(|error| match &error {
                    PluginError::Device(device) => Unmeasured::of_kind(device.kind, error.to_string()),
                    _ => Unmeasured { lasting: false, ..Unmeasured::lasting(error.to_string()) },
                });
                json(&opened.and_then(|device| measure(&device, dtype)))
            }
        }
    })
}

#[cfg(unix)]
fn json(value: &impl Serialize) -> serde_json::Value {
    // What cannot be written is no question and no answer, and the other side says so.
    serde_json::to_value(value).unwrap_or_else(|error| {
        tracing::warn!("a message between finetune and its child cannot be written: {error}");
        serde_json::Value::Null
    })
}

/// That part of the machine's memory, and not too little for a runtime to start in.
#[cfg(unix)]
fn share_of_memory(part: u64) -> u64 {
    const LEAST: u64 = 2 << 30;
    let total = sysinfo::System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    (total / part).max(LEAST)
}

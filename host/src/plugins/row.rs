//! What is known of a candidate file: a row of the list of plugins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::{self, Entry, Measured, Stamp};
use super::manifest::Manifest;
use super::probe::{ProbeReport, ProbedDevice};
use super::rank::Need;

/// A candidate file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The file.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// The back end's name, if the manifest could be read.
    pub name: Option<String>,
    /// The plugin's version, likewise.
    pub version: Option<String>,
    /// The version of the interface that it was built against, likewise.
    pub api: Option<String>,
    /// Whether it can be used.
    pub status: Status,
    /// Why not: a sentence.
    pub reason: Option<String>,
    /// Its devices, if it is ready.
    pub devices: Vec<DeviceRow>,
    /// When it was refused, in seconds since 1970, if that was not now.
    #[serde(skip)]
    pub remembered: Option<u64>,
    #[serde(skip)]
    pub(super) manifest: Option<Manifest>,
    /// Of the contents that were asked.
    #[serde(skip)]
    pub(super) sha256: String,
    /// The file when it was looked at.
    #[serde(skip)]
    pub(super) stamp: Option<Stamp>,
}

/// Whether a plugin can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has devices.
    Ready,
    /// It works, but there is nothing here for it to drive.
    Unavailable,
    /// It cannot or may not be loaded.
    Refused,
}

/// A device of a plugin that is ready.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRow {
    /// As the plugin describes it.
    #[serde(flatten)]
    pub device: ProbedDevice,
    /// Its measured speed, if it was measured.
    pub score: Option<f64>,
    /// Its place among all devices, from 1.
    pub rank: usize,
    /// Why it ranks where it does, if that needs a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was measured, by element type.
    #[serde(skip)]
    pub measured: BTreeMap<String, Measured>,
    /// What the job would ask of it, where that was foreseen.
    #[serde(skip)]
    pub need: Option<Need>,
}

impl Row {
    /// A file of which nothing is known yet.
    pub(super) fn of(path: PathBuf) -> Row {
        Row {
            path,
            name: None,
            version: None,
            api: None,
            status: Status::Refused,
            reason: None,
            devices: Vec::new(),
            remembered: None,
            manifest: None,
            sha256: String::new(),
            stamp: None,
        }
    }

    /// The file and the reason in one sentence.
    pub fn explanation(&self) -> String {
        let path = self.path.display();
        match (self.status, &self.reason) {
            (Status::Refused, Some(reason)) => format!("{path} {reason}"),
            (_, Some(reason)) => format!("{path}: {reason}"),
            (_, None) => format!("{path} is ready"),
        }
    }

    pub(super) fn know(&mut self, manifest: &Manifest, sha256: &str) {
        self.name = Some(manifest.name.clone());
        self.version = Some(manifest.version.clone());
        self.api = Some(manifest.api.clone());
        self.manifest = Some(manifest.clone());
        self.sha256 = sha256.into();
    }

    pub(super) fn take(&mut self, report: &ProbeReport) {
        match report {
            ProbeReport::Ready { devices } => {
                self.status = Status::Ready;
                self.devices = devices.iter().cloned().map(DeviceRow::of).collect();
            }
            ProbeReport::Unavailable { reason } => {
                self.status = Status::Unavailable;
                self.reason = Some(reason.clone());
            }
            ProbeReport::Refused { reason, .. } => {
                self.status = Status::Refused;
                self.reason = Some(reason.clone());
            }
        }
        if self.status != Status::Ready {
            self.devices.clear();
        }
    }

    /// Takes from a newer answer what changes by itself: how much memory is free, and whether there is a device at all.
    pub(super) fn renew(&mut self, report: &ProbeReport) {
        let ProbeReport::Ready { devices } = report else { return self.take(report) };
        for row in &mut self.devices {
            if let Some(now) = devices.iter().find(|now| now.index == row.device.index) {
                row.device.memory_available = now.memory_available;
            }
        }
        self.devices.retain(|row| devices.iter().any(|now| now.index == row.device.index));
    }
}

impl DeviceRow {
    pub(super) fn of(device: ProbedDevice) -> DeviceRow {
        DeviceRow { device, score: None, rank: 0, note: None, measured: Default::default(), need: None }
    }

    /// What was measured before.
    pub(super) fn recall(&mut self, entry: &Entry) {
        for dtype in &self.device.dtypes {
            let measured = entry.measured.get(&cache::measurement_key(self.device.index, dtype));
            self.measured.extend(measured.map(|measured| (dtype.clone(), measured.clone())));
        }
    }
}

fn as_text<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

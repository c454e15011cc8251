//! All that was found, usable or not.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::any_path;

use super::cache::{self, Cache, Measured, Speed, Stamp};
use super::device::Device;
use super::discover::Folders;
use super::error::PluginError;
use super::examine::{examine_all, guarded};
use super::manifest::Manifest;
use super::probe::{ProbeReport, ProbedDevice};
use super::prober::Prober;
use super::rank::{self, Job, Need};
use super::row::{DeviceRow, Row, Status};
use super::{binary, trust};

/// One row for every candidate file, in the order in which they were found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Catalog {
    /// The rows.
    pub plugins: Vec<Row>,
    /// Where they were looked for.
    #[serde(skip)]
    folders: Vec<PathBuf>,
    /// The folder of the cache.
    #[serde(skip)]
    cache: Option<PathBuf>,
}

/// A device that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The plugin's file.
    #[serde(with = "any_path::path")]
    pub path: PathBuf,
    /// What the plugin says about itself.
    pub manifest: Manifest,
    /// The device.
    pub device: ProbedDevice,
    sha256: String,
    /// Where it is remembered what was asked.
    #[serde(with = "any_path::option")]
    cache: Option<PathBuf>,
}

impl Catalog {
    /// Looks at every candidate; those that are not known yet are asked, several at once. A bad one costs a row,
    /// never the call.
    ///
    /// # Errors
    /// A folder that someone named cannot be read.
    pub fn build(folders: &Folders, prober: &Prober) -> Result<Catalog, PluginError> {
        let mut cache = Cache::read(prober.cache.as_deref());
        let surroundings = cache::surroundings(&prober.program);
        let mut plugins = Vec::new();
        for (row, entry) in examine_all(folders.candidates()?, prober, &cache, &surroundings) {
            cache.set(&row.path, entry);
            plugins.push(row);
        }
        cache.write();
        refuse_duplicates(&mut plugins);
        rank_devices(&mut plugins, &Job::any());
        let folders = folders.paths().map(Path::to_path_buf).collect();
        Ok(Catalog { plugins, folders, cache: prober.cache.clone() })
    }

    /// Whether there is more than one device to choose from, of which `backend` names none.
    pub fn needs_ranking(&self, backend: &str) -> bool {
        self.of_backend(backend).map(|row| row.devices.len()).sum::<usize>() > 1
    }

    /// The rows that a back end's name may mean; none where it names a device.
    pub(super) fn of_backend(&self, backend: &str) -> impl Iterator<Item = &Row> {
        self.plugins.iter().filter(move |row| {
            row.status == Status::Ready && (backend == "auto" || row.name.as_deref() == Some(backend))
        })
    }

    /// Asks again, all at once, how much memory the devices have free that `backend` may mean: that is never remembered.
    /// One that does not answer now is not used now.
    pub fn renew(&mut self, prober: &Prober, backend: &str) {
        let meant: Vec<PathBuf> = self.of_backend(backend).map(|row| row.path.clone()).collect();
        std::thread::scope(|scope| {
            for row in self.plugins.iter_mut().filter(|row| meant.contains(&row.path)) {
                scope.spawn(|| {
                    if let Some(manifest) = row.manifest.clone() {
                        let asked = guarded(|| prober.probe(&row.path, &manifest).report);
                        row.renew(&asked.unwrap_or_else(ProbeReport::refused));
                    }
                });
            }
        });
    }

    /// Foresees what a job asks of each device: `need` is told what the device has itself, how it lays out memory and
    /// the element type.
    pub fn foresee(&mut self, job: &Job, need: impl Fn(&Speed, &str) -> Option<Need>) {
        for device in self.plugins.iter_mut().flat_map(|row| &mut row.devices) {
            let dtype = job.dtype_on(device);
            if let Some(Measured::Speed(speed)) = device.measured.get(&dtype) {
                device.need = need(speed, &dtype);
            }
        }
    }

    /// Ranks the devices for a job, by the speeds that were measured.
    pub fn rank_for(&mut self, job: &Job) {
        rank_devices(&mut self.plugins, job);
    }

    /// Picks a device: `auto` is the one that ranks first, `NAME` the best of that back end, `NAME:DEVICE` the
    /// one with that number.
    ///
    /// # Errors
    /// There is none such; the sentence says what there is instead.
    pub fn choose(&self, backend: &str) -> Result<Choice, PluginError> {
        let (name, index) = match backend.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (backend, None),
        };
        let ready = || self.plugins.iter().filter(|row| row.status == Status::Ready);
        let devices = |row: &'_ Row| row.devices.clone();
        let best = |rows: &mut dyn Iterator<Item = &Row>| {
            rows.flat_map(|row| devices(row).into_iter().map(move |device| (row.clone(), device)))
                .min_by_key(|(_, device)| device.rank)
        };
        let (row, device) = match (name, index) {
            ("auto", None) => best(&mut ready()).ok_or_else(|| self.nothing_usable())?,
            ("auto", Some(_)) => {
                return Err(no_such(format!(
                    "{backend:?}: a device number needs the name of a back end before it"
                )));
            }
            (name, index) => {
                let row = ready()
                    .find(|row| row.name.as_deref() == Some(name))
                    .ok_or_else(|| self.not_usable(name))?;
                let device = match index {
                    None => best(&mut std::iter::once(row)).map(|(_, device)| device),
                    Some(index) => {
                        row.devices.iter().find(|row| row.device.index.to_string() == index).cloned()
                    }
                };
                (row.clone(), device.ok_or_else(|| no_such_device(row, backend))?)
            }
        };
        let Some(manifest) = row.manifest else { return Err(self.not_usable(name)) };
        let cache = self.cache.clone();
        Ok(Choice { path: row.path, manifest, device: device.device, sha256: row.sha256, cache })
    }

    /// All devices, those that `backend` may mean first, by rank: what to use, and what to turn to if it fails.
    ///
    /// # Errors
    /// As [`Catalog::choose`].
    pub fn choices(&self, backend: &str) -> Result<Vec<Choice>, PluginError> {
        let first = self.choose(backend)?;
        let rows =
            self.of_backend("auto").flat_map(|row| row.devices.iter().map(move |device| (row, device)));
        let mut rows: Vec<(&Row, &DeviceRow)> = rows.collect();
        let same = |row: &Row| row.name.as_deref() == Some(&first.manifest.name);
        rows.sort_by_key(|(row, device)| (backend != "auto" && !same(row), device.rank));
        let choice = |(row, device): (&Row, &DeviceRow)| {
            Some(Choice {
                path: row.path.clone(),
                manifest: row.manifest.clone()?,
                device: device.device.clone(),
                sha256: row.sha256.clone(),
                cache: self.cache.clone(),
            })
        };
        let others: Vec<Choice> =
            rows.into_iter().filter_map(choice).filter(|choice| *choice != first).collect();
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// Says why there is nothing to list or to choose, and where plugins belong.
    pub fn nothing_usable(&self) -> PluginError {
        let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let searched = match folders.as_slice() {
            [] => "no folder was searched".to_string(),
            folders => format!("searched: {}", folders.join(", ")),
        };
        PluginError::NothingUsable(match self.plugins.as_slice() {
            [] => format!(
                "no plugin was found ({searched}); put one into such a folder, or name a folder with --plugins DIR"
            ),
            rows => {
                let rows: Vec<String> = rows.iter().map(|row| format!("\n  {}", row.explanation())).collect();
                format!("no plugin can be used ({searched}):{}", rows.concat())
            }
        })
    }

    fn not_usable(&self, name: &str) -> PluginError {
        let same_name: Vec<String> = self
            .plugins
            .iter()
            .filter(|row| row.name.as_deref() == Some(name))
            .map(|row| format!("back end {name} cannot be used: {}", row.explanation()))
            .collect();
        if !same_name.is_empty() {
            return no_such(same_name.join("; "));
        }
        let ready = self.plugins.iter().filter(|row| row.status == Status::Ready);
        let names: Vec<&str> = ready.filter_map(|row| row.name.as_deref()).collect();
        match names.as_slice() {
            [] => match self.nothing_usable() {
                PluginError::NothingUsable(rest) => no_such(format!("there is no back end {name:?}: {rest}")),
                other => other,
            },
            names => no_such(format!("there is no back end {name:?}; there are: {}", names.join(", "))),
        }
    }
}

impl Choice {
    /// Opens the device. `options` go to the plugin as they are.
    ///
    /// # Errors
    /// The library is no longer the one that was asked, it cannot be loaded any more, or the plugin cannot open the
    /// device.
    pub fn open(&self, options: &serde_json::Map<String, serde_json::Value>) -> Result<Device, PluginError> {
        let refused = |reason| PluginError::Refused { path: self.path.clone(), reason };
        let (file, metadata) = trust::open(&self.path).map_err(refused)?;
        trust::check(&self.path, &metadata).map_err(refused)?;
        let unreadable = |error| refused(format!("cannot be read: {error}"));
        let changed = || {
            let mut cache = Cache::read(self.cache.as_deref());
            cache.forget(&self.path.to_string_lossy());
            cache.write();
            refused("has changed since it was asked for its devices: start again".into())
        };
        binary::check_size(metadata.len()).map_err(refused)?;
        if cache::sha256(file).map_err(unreadable)? != self.sha256 {
            return Err(changed());
        }
        let device = Device::open(&self.path, &self.manifest, self.device.index, options)?;
        // The system's loader goes by the name, which may have led to another file by then.
        let (file, now) = trust::open(&self.path).map_err(refused)?;
        if Stamp::of(&now) != Stamp::of(&metadata) && cache::sha256(file).map_err(unreadable)? != self.sha256
        {
            return Err(changed());
        }
        Ok(device)
    }
}

/// Of several plugins of one name that work, the first one found is used.
fn refuse_duplicates(rows: &mut [Row]) {
    for i in 0..rows.len() {
        let (earlier, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        let winner = earlier.iter().find(|winner| {
            row.status == Status::Ready && winner.status == Status::Ready && winner.name == row.name
        });
        if let Some(winner) = winner {
            let name = row.name.as_deref().unwrap_or_default();
            row.reason =
                Some(format!("has the name {name}, as has {}, which comes first", winner.path.display()));
            row.status = Status::Refused;
            row.devices.clear();
        }
    }
}

fn rank_devices(rows: &mut [Row], job: &Job) {
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (row, plugin) in rows.iter().enumerate() {
        order.extend((0..plugin.devices.len()).map(|device| (row, device)));
    }
    let device = |rows: &[Row], (row, device): (usize, usize)| rows[row].devices[device].clone();
    let candidate = |&(row, device): &(usize, usize)| rank::Candidate {
        plugin: rows[row].name.as_deref().unwrap_or_default(),
        row: &rows[row].devices[device],
    };
    order.sort_by(|a, b| rank::compare(job, &candidate(a), &candidate(b)));
    for (rank, &at) in order.iter().enumerate() {
        let this = device(rows, at);
        let before = rank.checked_sub(1).map(|before| order[before]);
        let tie = before.filter(|&before| rank::is_tie(job, &device(rows, before), &this)).map(|before| {
            let (name, index) = (rows[before.0].name.as_deref(), device(rows, before).device.index);
            let first = format!("is about as fast as {}:{index}", name.unwrap_or_default());
            match rank::tie_by_ops(&device(rows, before), &this) {
                Some(why) => format!("{first}, {why}"),
                None => first,
            }
        });
        let row = &mut rows[at.0].devices[at.1];
        row.rank = rank + 1;
        row.score = job.speed(&this);
        row.note = job.note(&this).or(tie);
    }
}

fn no_such(message: String) -> PluginError {
    PluginError::NoSuchBackend(message)
}

fn no_such_device(row: &Row, backend: &str) -> PluginError {
    let name = row.name.as_deref().unwrap_or_default();
    let devices: Vec<String> =
        row.devices.iter().map(|row| format!("{name}:{} ({})", row.device.index, row.device.name)).collect();
    no_such(format!("there is no device {backend:?}; there are: {}", devices.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another library under the same name is not the one that said which devices it has: it is not loaded.
    #[test]
    fn a_library_that_has_changed_since_it_was_asked_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.so");
        std::fs::write(&path, "one").expect("written");
        let text = |text: &str| text.to_owned();
        let manifest = Manifest {
            name: text("a"),
            version: text("1"),
            api: text("1.0.0"),
            vendor: text("v"),
            license: text("l"),
            description: text("d"),
        };
        let device = ProbedDevice {
            index: 0,
            name: String::new(),
            kind: text("cpu"),
            memory_total: 0,
            memory_available: 0,
            unified: false,
            dtypes: Vec::new(),
            details: serde_json::Map::new(),
        };
        let sha256 = cache::sha256(&b"one"[..]).expect("a hash");
        let choice = Choice { path: path.clone(), manifest, device, sha256, cache: None };
        let error = |choice: &Choice| match choice.open(&serde_json::Map::new()) {
            Ok(_) => panic!("three letters are a library"),
            Err(error) => error.to_string(),
        };
        // As it was it goes to the loader, which finds that it is none.
        assert!(error(&choice).contains("cannot be loaded"), "{}", error(&choice));
        std::fs::write(&path, "two").expect("written");
        assert!(error(&choice).contains("has changed since it was asked for its devices"));
    }
}

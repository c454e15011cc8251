//! All that was found, usable or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::{self, Cache, Entry, Measured, Stamp};
use super::device::Device;
use super::discover::Folders;
use super::error::PluginError;
use super::manifest::{self, Manifest};
use super::probe::{ProbeReport, ProbedDevice};
use super::prober::Prober;
use super::rank::{self, Job};
use super::{needs, trust};

/// One row for every candidate file, in the order in which they were found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Catalog {
    /// The rows.
    pub plugins: Vec<Row>,
    /// Where they were looked for.
    #[serde(skip)]
    folders: Vec<PathBuf>,
}

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
    manifest: Option<Manifest>,
    /// Of the contents that were asked.
    #[serde(skip)]
    sha256: String,
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
}

/// A device that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The plugin's file.
    pub path: PathBuf,
    /// What the plugin says about itself.
    pub manifest: Manifest,
    /// The device.
    pub device: ProbedDevice,
    sha256: String,
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
        Ok(Catalog { plugins, folders: folders.paths().map(Path::to_path_buf).collect() })
    }

    /// Whether there is more than one device to choose from, of which `backend` names none.
    pub fn needs_ranking(&self, backend: &str) -> bool {
        self.of_backend(backend).map(|row| row.devices.len()).sum::<usize>() > 1
    }

    /// The rows that a back end's name may mean; none where it names a device.
    fn of_backend(&self, backend: &str) -> impl Iterator<Item = &Row> {
        self.plugins.iter().filter(move |row| {
            row.status == Status::Ready && (backend == "auto" || row.name.as_deref() == Some(backend))
        })
    }

    /// Ranks the devices for a job, by the speeds that were measured.
    pub fn rank_for(&mut self, job: &Job) {
        rank_devices(&mut self.plugins, job);
    }

    /// Measures every device that `backend` may mean and that has not been, at each of these element types that it
    /// has, in a child and one at a time; keeps the speeds, and failures that may last. `tell` hears of each before it
    /// begins.
    pub fn measure(&mut self, prober: &Prober, backend: &str, dtypes: &[&str], mut tell: impl FnMut(&str)) {
        let meant: Vec<PathBuf> = self.of_backend(backend).map(|row| row.path.clone()).collect();
        let mut cache = Cache::read(prober.cache.as_deref());
        for row in self.plugins.iter_mut().filter(|row| meant.contains(&row.path)) {
            let Some(manifest) = row.manifest.clone() else { continue };
            for device in &mut row.devices {
                for dtype in
                    dtypes.iter().filter(|dtype| device.device.dtypes.iter().any(|has| has == *dtype))
                {
                    if device.measured.contains_key(*dtype) {
                        continue;
                    }
                    let index = device.device.index;
                    tell(&format!("{}:{index} in {dtype}", manifest.name));
                    let (measured, lasting) = match prober.measure(&row.path, &manifest, index, dtype) {
                        Ok(speed) => (Measured::Speed(speed), true),
                        Err(failure) => (Measured::Failed { failed: failure.reason }, failure.lasting),
                    };
                    tracing::info!("{}:{index} in {dtype}: {measured:?}", manifest.name);
                    device.measured.insert((*dtype).to_string(), measured.clone());
                    if lasting {
                        cache.add_measured(&row.path, cache::measurement_key(index, dtype), measured);
                    }
                }
            }
        }
        cache.write();
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
        Ok(Choice { path: row.path, manifest, device: device.device, sha256: row.sha256 })
    }

    /// All devices that `backend` may mean, by rank: what to use, and what to turn to if it fails.
    ///
    /// # Errors
    /// As [`Catalog::choose`].
    pub fn choices(&self, backend: &str) -> Result<Vec<Choice>, PluginError> {
        let first = self.choose(backend)?;
        let rows =
            self.of_backend(backend).flat_map(|row| row.devices.iter().map(move |device| (row, device)));
        let mut rows: Vec<(&Row, &DeviceRow)> = rows.collect();
        rows.sort_by_key(|(_, device)| device.rank);
        let choice = |(row, device): (&Row, &DeviceRow)| {
            let (path, sha256) = (row.path.clone(), row.sha256.clone());
            Some(Choice { path, manifest: row.manifest.clone()?, device: device.device.clone(), sha256 })
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

impl Row {
    /// A file of which nothing is known yet.
    fn of(path: PathBuf) -> Row {
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
}

impl Row {
    fn know(&mut self, manifest: &Manifest, sha256: &str) {
        self.name = Some(manifest.name.clone());
        self.version = Some(manifest.version.clone());
        self.api = Some(manifest.api.clone());
        self.manifest = Some(manifest.clone());
        self.sha256 = sha256.into();
    }

    fn take(&mut self, report: &ProbeReport) {
        match report {
            ProbeReport::Ready { devices } => {
                self.status = Status::Ready;
                self.devices = devices.iter().cloned().map(DeviceRow::of).collect();
            }
            ProbeReport::Unavailable { reason } => {
                self.status = Status::Unavailable;
                self.reason = Some(reason.clone());
            }
            ProbeReport::Refused { reason } => self.reason = Some(reason.clone()),
        }
    }
}

impl DeviceRow {
    pub(super) fn of(device: ProbedDevice) -> DeviceRow {
        DeviceRow { device, score: None, rank: 0, note: None, measured: Default::default() }
    }

    /// What was measured before.
    fn recall(&mut self, entry: &Entry) {
        for dtype in &self.device.dtypes {
            let measured = entry.measured.get(&cache::measurement_key(self.device.index, dtype));
            self.measured.extend(measured.map(|measured| (dtype.clone(), measured.clone())));
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
        let hash = cache::sha256(file).map_err(|error| refused(format!("cannot be read: {error}")))?;
        if hash != self.sha256 {
            return Err(refused("has changed since it was asked for its devices: start again".into()));
        }
        Device::open(&self.path, &self.manifest, self.device.index, options)
    }
}

/// Rows in the order of the files, each with what is to be kept of it.
fn examine_all(
    paths: Vec<PathBuf>,
    prober: &Prober,
    cache: &Cache,
    surroundings: &str,
) -> Vec<(Row, Option<Entry>)> {
    // Asking is mostly waiting, for a driver or a deadline.
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 16));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(path) = paths.get(index) else { return done };
            done.push((index, examine(path, prober, cache, surroundings)));
        }
    };
    let mut rows = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(paths.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("does not panic")).collect::<Vec<_>>()
    });
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn examine(path: &Path, prober: &Prober, cache: &Cache, surroundings: &str) -> (Row, Option<Entry>) {
    let mut row = Row::of(path.to_path_buf());
    let entry = match look(&mut row, prober, cache, surroundings) {
        Ok(entry) => entry,
        Err(reason) => {
            row.reason = Some(reason);
            None
        }
    };
    match row.status {
        Status::Ready => tracing::info!("{}", row.explanation()),
        _ => tracing::info!("not used: {}", row.explanation()),
    }
    (row, entry)
}

/// Fills the row in. What a file says at a glance is never remembered; an answer of its code is.
fn look(row: &mut Row, prober: &Prober, cache: &Cache, surroundings: &str) -> Result<Option<Entry>, String> {
    let path = row.path.clone();
    let metadata = trust::look(&path)?;
    if metadata.is_file() {
        trust::check(&path, &metadata)?;
    }
    // One that was too slow is asked again where it is given longer.
    let known = cache.find(&path, &metadata, surroundings);
    let known = known.filter(|entry| entry.waited.is_none_or(|waited| waited >= prober.timeout));
    if let Some(entry) = known {
        row.know(&entry.manifest, &entry.sha256);
        row.take(&entry.report);
        row.remembered = (row.status == Status::Refused).then_some(entry.when);
        for device in &mut row.devices {
            device.recall(&entry);
        }
        return Ok(Some(entry));
    }
    let (file, metadata) = trust::open(&path)?;
    trust::check(&path, &metadata)?;
    let again = file.try_clone().map_err(|error| format!("cannot be read: {error}"))?;
    let (manifest, needed) = manifest::read_from(file)?;
    row.know(&manifest, "");
    manifest::check_api(&manifest.api)?;
    let needs = needs::resolve(&path, needed)?;
    row.sha256 = hash(again).map_err(|error| format!("cannot be read: {error}"))?;
    let asked = prober.probe(&path, &manifest);
    row.take(&asked.report);
    Ok(asked.lasting.then(|| Entry {
        stamp: Stamp::of(&metadata),
        sha256: row.sha256.clone(),
        surroundings: surroundings.into(),
        when: cache::now(),
        manifest,
        report: asked.report,
        waited: asked.waited,
        needs,
        measured: Default::default(),
    }))
}

/// From the beginning, wherever the file was read last.
fn hash(mut file: std::fs::File) -> std::io::Result<String> {
    std::io::Seek::rewind(&mut file)?;
    cache::sha256(file)
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
            format!("is about as fast as {}:{index}", name.unwrap_or_default())
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

fn as_text<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

//! What was learned of plugins before: their devices, why they were refused, and how fast they were.
//!
//! One file for all, written aside and renamed under a lock, so that several hosts can use it at once. It is only ever
//! a help: damaged or out of reach, it is as if it were empty.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::any_path::AnyPath;

use super::manifest::Manifest;
use super::probe::ProbeReport;
use super::trust;

/// Names the folder to use in place of the user's cache folder.
pub const FOLDER_VARIABLE: &str = "FINETUNE_CACHE_DIR";
/// Raised when entries change their meaning.
const FORMAT: u32 = 3;
/// More than this is no cache of ours.
const MAX_BYTES: u64 = 16 << 20;

/// What shows that a file is the one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    modified_ns: u128,
    place: (u64, u64),
    /// Seconds and nanoseconds of the last change of any kind: unlike the time of modification nobody can set it.
    changed: (i64, i64),
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub stamp: Stamp,
    pub sha256: String,
    /// Host, system, drivers and variables, when it was asked: [`surroundings`].
    pub surroundings: String,
    /// Seconds since 1970.
    pub when: u64,
    pub manifest: Manifest,
    pub report: ProbeReport,
    /// How long it was waited for, if it did not answer.
    pub waited: Option<Duration>,
    /// Libraries that it needs, outside of the system's own folders.
    pub needs: Vec<(AnyPath, Stamp)>,
    /// By [`measurement_key`].
    pub measured: BTreeMap<String, Measured>,
}

/// What came of measuring a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measured {
    /// It did the work.
    Speed(Speed),
    /// It did not.
    Failed {
        /// Why, as the end of a sentence.
        failed: String,
        /// Whether it did not come to an end.
        late: bool,
    },
}

/// A measured speed, and what the device said of itself then that a job's demands follow from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Of the calibration step.
    pub tokens_per_s: f64,
    /// Names of the composite ops that the device has itself.
    pub native: Vec<String>,
    /// How it lays out memory, as its properties describe it.
    pub plan: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    /// Of the line after it.
    sha256: String,
}

/// The cache as it was read, and what has changed since.
#[derive(Debug, Default)]
pub(super) struct Cache {
    folder: Option<PathBuf>,
    entries: BTreeMap<String, Entry>,
    changes: BTreeMap<String, Option<Entry>>,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Stamp {
        #[cfg(unix)]
        let (place, changed) = {
            use std::os::unix::fs::MetadataExt;
            ((metadata.dev(), metadata.ino()), (metadata.ctime(), metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let (place, changed) = ((0, 0), (0, 0));
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Stamp {
            size: metadata.len(),
            modified_ns: modified.map_or(0, |time| time.as_nanos()),
            place,
            changed,
        }
    }
}

impl Cache {
    /// What is in the folder; none is a cache that forgets.
    pub fn read(folder: Option<&Path>) -> Cache {
        let entries = folder.map(|folder| read(&folder.join(FILE))).unwrap_or_default();
        Cache { folder: folder.map(Path::to_path_buf), entries, changes: BTreeMap::new() }
    }

    /// What is known of the file, if it still is that file in those surroundings.
    pub fn find(&self, path: &Path, metadata: &Metadata, surroundings: &str) -> Option<Entry> {
        let entry = self.entries.get(&entry_key(path))?;
        if entry.surroundings != surroundings || entry.needs.iter().any(has_changed) {
            return None;
        }
        let stamp = Stamp::of(metadata);
        if entry.stamp == stamp {
            return Some(entry.clone());
        }
        // Copied or touched, perhaps; what counts is what is in it.
        let (file, metadata) = trust::open(path).ok()?;
        let same = entry.stamp.size == stamp.size && sha256(file).ok()? == entry.sha256;
        same.then(|| Entry { stamp: Stamp::of(&metadata), ..entry.clone() })
    }

    /// Keeps an entry, or forgets it.
    pub fn set(&mut self, path: &Path, entry: Option<Entry>) {
        let key = entry_key(path);
        if self.entries.get(&key) == entry.as_ref() {
            return;
        }
        match &entry {
            Some(entry) => self.entries.insert(key.clone(), entry.clone()),
            None => self.entries.remove(&key),
        };
        self.changes.insert(key, entry);
    }

    /// Adds a measurement to an entry, if there is one.
    pub fn add_measured(&mut self, path: &Path, key: String, measured: Measured) {
        let Some(mut entry) = self.entries.get(&entry_key(path)).cloned() else { return };
        entry.measured.insert(key, measured);
        self.set(path, Some(entry));
    }

    /// Forgets the plugins of that name or file; says how many.
    pub fn forget(&mut self, name: &str) -> usize {
        let is_meant = |path: &Path, entry: &Entry| {
            let file = path.file_name().map(|file| file.to_string_lossy());
            entry.manifest.name == name || path.to_string_lossy() == name || file.as_deref() == Some(name)
        };
        let entries = self.entries.iter().map(|(key, entry)| (path_of(key), entry));
        let meant = entries.filter(|(path, entry)| is_meant(path, entry));
        let meant: Vec<PathBuf> = meant.map(|(path, _)| path).collect();
        for path in &meant {
            self.set(path, None);
        }
        meant.len()
    }

    /// Writes what has changed into what is there by now. A failure costs time later, nothing else.
    pub fn write(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let Some(folder) = self.folder.as_deref().filter(|_| !changes.is_empty()) else { return };
        if let Err(error) = write(folder, changes) {
            tracing::warn!("what was learned of plugins is not kept: {}: {error}", folder.display());
        }
    }
}

/// Two lines: a [`Head`], and what it is of.
const FILE: &str = "plugins.jsonl";
/// How long another host is waited for that is just writing.
const PATIENCE: Duration = Duration::from_secs(2);

fn read(file: &Path) -> BTreeMap<String, Entry> {
    let (opened, metadata) = match trust::open(file) {
        Ok(opened) => opened,
        Err(reason) => {
            tracing::debug!("{} {reason}", file.display());
            return BTreeMap::new();
        }
    };
    if let Err(reason) = trust::check(file, &metadata) {
        tracing::warn!("{} {reason}; it is not used", file.display());
        return BTreeMap::new();
    }
    let mut text = Vec::new();
    let contents = opened.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string());
    contents.and_then(|_| understood(&text)).unwrap_or_else(|error| {
        tracing::info!("{} is damaged or of another version and made anew: {error}", file.display());
        BTreeMap::new()
    })
}

fn understood(text: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let end = text.iter().position(|&byte| byte == b'\n').ok_or("it has no second line")?;
    let (head, body) = (&text[..end], &text[end + 1..]);
    let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    if head.format != FORMAT {
        return Err(format!("its format is {}", head.format));
    }
    if sha256(body).map_err(|error| error.to_string())? != head.sha256 {
        return Err("its hash is another".into());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn write(folder: &Path, changes: BTreeMap<String, Option<Entry>>) -> io::Result<()> {
    make_folder(folder)?;
    trust::check_folder(folder).map_err(io::Error::other)?;
    let _lock = locked(&folder.join("plugins.lock"))?;
    let file = folder.join(FILE);
    let mut plugins = read(&file);
    for (path, entry) in changes {
        match entry {
            Some(mut entry) => {
                let there = plugins
                    .remove(&path)
                    .filter(|there| there.sha256 == entry.sha256 && there.surroundings == entry.surroundings);
                // What another host has measured meanwhile.
                for (key, measured) in there.map(|there| there.measured).unwrap_or_default() {
                    entry.measured.entry(key).or_insert(measured);
                }
                plugins.insert(path, entry)
            }
            None => plugins.remove(&path),
        };
    }
    plugins.retain(|key, _| path_of(key).symlink_metadata().is_ok());
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    let body = serde_json::to_vec(&plugins)?;
    let head = Head { format: FORMAT, sha256: sha256(body.as_slice())? };
    aside.write_all(&[serde_json::to_vec(&head)?, body].join(&b'\n'))?;
    aside.persist(&file)?;
    Ok(())
}

/// The lock, once nobody else has it. One who stopped in the middle of writing is not waited for.
fn locked(file: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).append(true);
    // A fifo would keep the caller waiting.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let lock = options.open(file)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another finetune does not stop writing"));
            }
            // A file system without locks: the last one to write wins.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

fn has_changed((AnyPath(path), stamp): &(AnyPath, Stamp)) -> bool {
    path.metadata().map_or(true, |metadata| Stamp::of(&metadata) != *stamp)
}

/// What a file's entry is found by: its path, or what no path begins with and its bytes where they are no Unicode.
fn entry_key(path: &Path) -> String {
    match path.to_str() {
        Some(text) => text.to_owned(),
        None => format!("\0{}", hex(path.as_os_str().as_encoded_bytes())),
    }
}

/// The inverse of [`entry_key`].
fn path_of(key: &str) -> PathBuf {
    #[cfg(unix)]
    if let Some(bytes) = key.strip_prefix('\0') {
        let byte = |at: usize| bytes.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok());
        let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map_while(byte).collect();
        return <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into();
    }
    key.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a measurement in an entry.
pub(super) fn measurement_key(device: u32, dtype: &str) -> String {
    format!("{device}/{dtype}")
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

pub(super) fn sha256(mut file: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The folder that entries are kept in where nobody says otherwise.
pub(super) fn folder() -> Option<PathBuf> {
    let (folder, warning) = folder_from(trust::variable);
    static SAID: Once = Once::new();
    if let Some(warning) = warning {
        SAID.call_once(|| tracing::warn!("{warning}"));
    }
    folder
}

/// The folder by those variables, and what a person should know of it.
fn folder_from(variable: impl Fn(&str) -> Option<OsString>) -> (Option<PathBuf>, Option<String>) {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let given = variable(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if let Some(folder) = given.as_ref().filter(|folder| folder.is_absolute()) {
        return (Some(folder.clone()), None);
    }
    let (folder, names) = if cfg!(windows) {
        (absolute("LOCALAPPDATA"), "LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        (absolute("HOME").map(|home| home.join("Library/Caches")), "HOME")
    } else {
        let home = || Some(absolute("HOME")?.join(".cache"));
        (absolute("XDG_CACHE_HOME").or_else(home), "XDG_CACHE_HOME and HOME")
    };
    let folder = folder.map(|folder| folder.join("finetune"));
    let begun = given.map(|given| {
        format!("{FOLDER_VARIABLE} names the folder {}, which must be absolute; ", given.display())
    });
    let warning = match (&folder, begun) {
        (Some(_), None) => None,
        (Some(folder), Some(begun)) => Some(format!("{begun}{} is used instead", folder.display())),
        (None, begun) => Some(format!(
            "{}what is learned of plugins is not kept, and they are asked and measured again each time: there is no \
             cache folder, because no absolute path is in {names}; name one with {FOLDER_VARIABLE}",
            begun.unwrap_or_default()
        )),
    };
    (folder, warning)
}

/// All that a plugin's answer may depend on besides its file: this program, the system and its drivers, the devices
/// that are there, and the variables that back ends and loaders read.
pub(super) fn surroundings(program: &Path) -> String {
    let mut text = format!("{} {}\n", env!("CARGO_PKG_VERSION"), finetune_plugin_api::abi::API_VERSION);
    if let Ok(metadata) = program.metadata() {
        text += &format!("{:?}\n", Stamp::of(&metadata));
    }
    for fact in [sysinfo::System::long_os_version(), sysinfo::System::kernel_version()] {
        text += &format!("{}\n", fact.unwrap_or_default());
    }
    for file in ["/proc/driver/nvidia/version", "/sys/module/nvidia/version", "/sys/module/amdgpu/version"] {
        text += &fs::read_to_string(file).unwrap_or_default();
    }
    let names = |folder: &str, prefix: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        names.join(" ") + "\n"
    };
    text += &[names("/dev", "nvidia"), names("/dev", "kfd"), names("/dev/dri", "")].concat();
    let ours = [
        FOLDER_VARIABLE,
        "FINETUNE_LOG",
        "FINETUNE_BACKEND",
        "FINETUNE_PLUGIN_PATH",
        "FINETUNE_PROBE_TIMEOUT",
        "FINETUNE_MEASURE_TIMEOUT",
    ];
    let prefixes = ["CUDA", "HIP_", "ROCR_", "NVIDIA_", "LD_", "DYLD_", "FINETUNE_", "RAYON_", "OMP_"];
    let variables = std::env::vars_os().map(|(name, value)| format!("{name:?}={value:?}\n"));
    let mut variables: Vec<String> = variables
        .filter(|line| {
            let name = &line[1..];
            prefixes.iter().any(|prefix| name.starts_with(prefix))
                && !ours.iter().any(|our| name.starts_with(our))
        })
        .collect();
    variables.sort();
    text += &variables.concat();
    sha256(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

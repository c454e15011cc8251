//! The run folder: `config.toml`, `metrics.jsonl`, `checkpoints/step-N`, and at the end `adapter` or `model`.
//!
//! A process that trains in it may be killed at any instant: what is in it resumes then, too.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::weights::atomic;

use super::config::Settings;
use super::error::TrainError;
use super::event::Event;

/// The settings of the run.
const CONFIG: &str = "config.toml";
/// The same, from the run's very beginning: should the process die before its first step, or the other be damaged.
const TWIN: &str = ".config.toml";
/// Held while a process trains in the folder.
const LOCK: &str = "run.lock";
/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const STEP: &str = "step-";
/// A checkpoint that is being removed.
const REMOVED: &str = ".removed-";

/// A run folder that this process owns.
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    /// The settings, until they are written.
    settings: Option<String>,
    /// Released by the system when the process ends, however it ends.
    lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run. It is one only from [`RunFolder::begin`] on: what fails before that leaves
    /// the folder free for another try. What the run will leave, at `result`, must not be there yet.
    pub fn create(path: &Path, settings: &Settings, result: &Path) -> Result<RunFolder, TrainError> {
        atomic::create_dirs(path)?;
        let lock = lock(path)?;
        if path.join(CONFIG).exists() || !checkpoints(path)?.is_empty() {
            let what = match RunFolder::can_resume(path) {
                true => format!(
                    "there is a run in this folder; go on with it by `finetune train --resume --out {}`, or give \
                     another --out",
                    path.display()
                ),
                false => format!(
                    "there are checkpoints of a run in this folder, whose settings ({CONFIG}) are gone, so it cannot go \
                     on; move {CHECKPOINTS} away, or give another --out"
                ),
            };
            return Err(TrainError::folder(path, what));
        }
        // Perhaps it is the very model that is to be trained.
        if fs::symlink_metadata(result).is_ok() {
            return Err(TrainError::folder(
                result,
                "is there already, and the run would put what it makes in its place; move it away, or give another \
                 --out",
            ));
        }
        remove_leftovers(path)?;
        let settings = settings.to_toml()?;
        atomic::write_file(&path.join(TWIN), settings.as_bytes())?;
        let settings = Some(settings);
        let metrics = open_metrics(path)?;
        metrics.set_len(0).map_err(TrainError::io("write", path.join(METRICS)))?;
        Ok(RunFolder { path: path.into(), metrics, settings, lock })
    }

    /// Opens the folder of a run that is to go on. Its settings stay what they were until [`RunFolder::begin`].
    pub fn resume(path: &Path, settings: &Settings) -> Result<RunFolder, TrainError> {
        if !RunFolder::can_resume(path) {
            return Err(TrainError::folder(
                path,
                "there is no run in this folder that could be resumed; leave --resume out to begin one",
            ));
        }
        let lock = lock(path)?;
        remove_leftovers(path)?;
        let settings = Some(settings.to_toml()?);
        let metrics = open_metrics(path)?;
        Ok(RunFolder { path: path.into(), metrics, settings, lock })
    }

    /// Whether there is a run in a folder that has taken a step.
    pub fn is_run(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Keeps the settings: the run has shown that it works with them. Does nothing the second time.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        if let Some(settings) = &self.settings {
            for name in [CONFIG, TWIN] {
                atomic::write_file(&self.path.join(name), settings.as_bytes())?;
            }
            self.settings = None;
        }
        Ok(())
    }

    /// Whether the folder is still the one that was locked: it may have been moved or removed, and there may be another
    /// in its place.
    ///
    /// # Errors
    /// It is not.
    pub fn check_place(&self) -> Result<(), TrainError> {
        match is_same(&self.lock, &self.path.join(LOCK)) {
            true => Ok(()),
            false => Err(TrainError::folder(
                &self.path,
                "the run folder was moved or removed while the run went on, so nothing more is written to it; where its \
                 checkpoints still are, go on from there with --resume --out",
            )),
        }
    }

    /// Keeps an event.
    pub fn record(&mut self, event: &Event) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(event).map_err(|error| {
            TrainError::folder(self.path.join(METRICS), format!("cannot write an event: {error}"))
        })?;
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(TrainError::io("write", self.path.join(METRICS)))
    }

    /// Forces the events to the disk: a checkpoint that outlives a power cut has the record of its steps.
    pub fn sync(&self) -> Result<(), TrainError> {
        self.metrics.sync_all().map_err(TrainError::io("write", self.path.join(METRICS)))
    }

    /// Forgets the events of steps after `step`: they will be taken again.
    pub fn forget_after(&mut self, step: u64) -> Result<(), TrainError> {
        let path = self.path.join(METRICS);
        let text = fs::read(&path).map_err(TrainError::io("read", &path))?;
        let mut kept = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            // A line that was cut off when the process died, perhaps within a character, is no event.
            let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
            if event_step(&event).is_none_or(|at| at <= step) {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
        atomic::write_file(&path, &kept)?;
        self.metrics = open_metrics(&self.path)?;
        Ok(())
    }

    /// Where the checkpoint of a step is.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(CHECKPOINTS).join(format!("{STEP}{step:08}"))
    }

    /// The steps of which there are checkpoints, the latest first.
    pub fn checkpoints(&self) -> Result<Vec<u64>, TrainError> {
        checkpoints(&self.path)
    }

    /// Removes all checkpoints up to step `done` but the latest `keep`. Later ones were found to be damaged, or the run
    /// would have gone on from them: they must not take the place of good ones.
    pub fn prune(&self, done: u64, keep: usize) -> Result<(), TrainError> {
        for step in self.checkpoints()?.into_iter().filter(|step| *step <= done).skip(keep) {
            let path = self.checkpoint(step);
            // Renamed first: a folder that is half gone must not look like a checkpoint.
            let aside = path.with_file_name(format!("{REMOVED}{step}"));
            fs::rename(&path, &aside).map_err(TrainError::io("remove", &path))?;
            fs::remove_dir_all(&aside).map_err(TrainError::io("remove", &aside))?;
        }
        Ok(())
    }
}

impl RunFolder {
    /// Whether there is a run in a folder that can go on, be it one that died before its first step.
    pub fn can_resume(path: &Path) -> bool {
        [CONFIG, TWIN].iter().any(|name| path.join(name).is_file())
    }

    /// The settings of the run in a folder. What was cut off is read from its twin, loudly; what a person has changed
    /// in it counts.
    ///
    /// # Errors
    /// There are none that can be read.
    pub fn settings(path: &Path) -> Result<Settings, TrainError> {
        let read = |name: &str| {
            let file = path.join(name);
            let text = fs::read_to_string(&file).map_err(TrainError::io("read", &file))?;
            let settings = Settings::from_toml(&text, &file)?;
            Ok::<_, TrainError>((text, settings))
        };
        let (own, twin) = (read(CONFIG), read(TWIN));
        match (own, twin) {
            (Ok((text, _)), Ok((whole, settings))) if text != whole && whole.starts_with(&text) => {
                let file = path.join(CONFIG);
                tracing::warn!("{} is cut off; its copy {TWIN} is used", file.display());
                Ok(settings)
            }
            (Ok((_, settings)), _) => Ok(settings),
            (Err(error), Ok((_, settings))) => {
                // Without a first step there was no run yet that it could be missing from.
                if path.join(CONFIG).exists() || !checkpoints(path)?.is_empty() {
                    tracing::warn!("{error}; its copy {TWIN} is used");
                }
                Ok(settings)
            }
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// The steps of which there are checkpoints in a run folder, the latest first.
fn checkpoints(path: &Path) -> Result<Vec<u64>, TrainError> {
    let path = path.join(CHECKPOINTS);
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut steps: Vec<u64> = Vec::new();
    for entry in fs::read_dir(&path).map_err(TrainError::io("list", &path))? {
        let entry = entry.map_err(TrainError::io("list", &path))?;
        let name = entry.file_name();
        let step: Option<u64> =
            name.to_str().and_then(|name| name.strip_prefix(STEP)).and_then(|step| step.parse().ok());
        steps.extend(step);
    }
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |meta: fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if place(a.clone()) == place(b.clone()))
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

fn open_metrics(path: &Path) -> Result<File, TrainError> {
    let path = path.join(METRICS);
    // A fifo would be waited for.
    if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Err(TrainError::folder(&path, "is there and is no file; remove it, or give another --out"));
    }
    OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io("write", &path))
}

fn lock(path: &Path) -> Result<File, TrainError> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    let lock = lock.map_err(TrainError::io("write", &file))?;
    // A worker whose supervisor was killed just now is about to go.
    let begun = Instant::now();
    let mut locked = lock.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && begun.elapsed() < PATIENCE {
        std::thread::sleep(PATIENCE / 100);
        locked = lock.try_lock();
    }
    match locked {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(TrainError::folder(
            path,
            "another process is training in this folder; wait for it or stop it",
        )),
        // A file system without locks: two runs in one folder cannot be told apart there.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(lock),
        Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &file)(error)),
    }
}

/// Clears what a killed process left: files and folders that were being written, replaced or removed. Whatever else is
/// there, such as what file managers put into every folder, is nobody's business.
fn remove_leftovers(run: &Path) -> Result<(), TrainError> {
    for name in [CONFIG, TWIN, METRICS] {
        atomic::recover(&run.join(name))?;
    }
    let checkpoints = run.join(CHECKPOINTS);
    if !checkpoints.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&checkpoints).map_err(TrainError::io("list", &checkpoints))? {
        let entry = entry.map_err(TrainError::io("list", &checkpoints))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(REMOVED) {
            fs::remove_dir_all(entry.path()).map_err(TrainError::io("remove", entry.path()))?;
        } else if let Some((target, _)) = name.strip_prefix('.').and_then(|name| name.split_once('.'))
            && target.starts_with(STEP)
        {
            atomic::recover(&checkpoints.join(target))?;
        }
    }
    Ok(())
}

fn event_step(event: &Event) -> Option<u64> {
    match event {
        Event::Step { step, .. } | Event::Eval { step, .. } | Event::Saved { step, .. } => Some(*step),
        Event::End { steps, .. } => Some(*steps),
        Event::Start { .. } | Event::Warning { .. } | Event::Fallback { .. } | Event::Memory { .. } => None,
    }
}

#[cfg(test)]
mod tests;

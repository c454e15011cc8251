//! The run folder: `config.toml`, `metrics.jsonl`, `checkpoints/step-N`, and at the end `adapter` or `model`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::weights::atomic;

use super::config::Settings;
use super::error::TrainError;
use super::event::Event;

/// The settings of the run.
const CONFIG: &str = "config.toml";
/// Held while a process trains in the folder.
const LOCK: &str = "run.lock";
/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const STEP: &str = "step-";

/// A run folder that this process owns.
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    /// The settings, until they are written.
    settings: Option<String>,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run. It is one only from [`RunFolder::begin`] on: what fails before that leaves
    /// the folder free for another try.
    pub fn create(path: &Path, settings: &Settings) -> Result<RunFolder, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io("make", path))?;
        let lock = lock(path)?;
        if path.join(CONFIG).exists() {
            return Err(TrainError::folder(
                path,
                format!(
                    "there is a run in this folder; go on with it by `finetune train --resume --out {}`, or give \
                     another --out",
                    path.display()
                ),
            ));
        }
        let settings = Some(settings.to_toml()?);
        let metrics = open_metrics(path)?;
        metrics.set_len(0).map_err(TrainError::io("write", path.join(METRICS)))?;
        Ok(RunFolder { path: path.into(), metrics, settings, _lock: lock })
    }

    /// Opens the folder of a run that is to go on. Its settings stay what they were until [`RunFolder::begin`].
    pub fn resume(path: &Path, settings: &Settings) -> Result<RunFolder, TrainError> {
        if !path.join(CONFIG).exists() {
            return Err(TrainError::folder(
                path,
                "there is no run in this folder that could be resumed; leave --resume out to begin one",
            ));
        }
        let lock = lock(path)?;
        let checkpoints = path.join(CHECKPOINTS);
        if checkpoints.is_dir() {
            remove_leftovers(&checkpoints)?;
        }
        let settings = Some(settings.to_toml()?);
        let metrics = open_metrics(path)?;
        Ok(RunFolder { path: path.into(), metrics, settings, _lock: lock })
    }

    /// Whether there is a run in a folder.
    pub fn is_run(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Keeps the settings: the run has shown that it works with them. Does nothing the second time.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        if let Some(settings) = &self.settings {
            atomic::write_file(&self.path.join(CONFIG), settings.as_bytes())?;
            self.settings = None;
        }
        Ok(())
    }

    /// Keeps an event.
    pub fn record(&mut self, event: &Event) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(event).map_err(|error| {
            TrainError::folder(self.path.join(METRICS), format!("cannot write an event: {error}"))
        })?;
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(TrainError::io("write", self.path.join(METRICS)))
    }

    /// Forgets the events of steps after `step`: they will be taken again.
    pub fn forget_after(&mut self, step: u64) -> Result<(), TrainError> {
        let path = self.path.join(METRICS);
        let file = File::open(&path).map_err(TrainError::io("read", &path))?;
        let mut kept = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(TrainError::io("read", &path))?;
            // A line that was cut off when the process died is no event.
            let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
            if event_step(&event).is_none_or(|at| at <= step) {
                kept.extend_from_slice(line.as_bytes());
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
        let path = self.path.join(CHECKPOINTS);
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

    /// Removes all checkpoints but the latest `keep`.
    pub fn prune(&self, keep: usize) -> Result<(), TrainError> {
        for step in self.checkpoints()?.into_iter().skip(keep) {
            let path = self.checkpoint(step);
            // Renamed first: a folder that is half gone must not look like a checkpoint.
            let aside = path.with_file_name(format!(".removed-{step}"));
            fs::rename(&path, &aside).map_err(TrainError::io("remove", &path))?;
            fs::remove_dir_all(&aside).map_err(TrainError::io("remove", &aside))?;
        }
        Ok(())
    }
}

fn open_metrics(path: &Path) -> Result<File, TrainError> {
    let path = path.join(METRICS);
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

/// What a killed process left: folders that were being written or removed; their names begin with a dot.
fn remove_leftovers(checkpoints: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(checkpoints).map_err(TrainError::io("list", checkpoints))? {
        let entry = entry.map_err(TrainError::io("list", checkpoints))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_dir_all(entry.path()).map_err(TrainError::io("remove", entry.path()))?;
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

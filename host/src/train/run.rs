//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::data::{Dataset, Fingerprint, Loader};
use crate::optim::{AdamW, Schedule};

use super::backend::Backend;
use super::checkpoint::{self, State};
use super::config::{RunConfig, Settings};
use super::error::TrainError;
use super::eval::mean_loss;
use super::event::{Event, Observer};
use super::folder::RunFolder;
use super::oversight::{Oversight, Sign};
use super::session::Session;
use super::snapshot::Snapshots;
use super::steps::{InFlight, Pace};
use super::stop::StopFlag;

/// Checkpoints that are kept: should the latest be damaged, there is one before it.
const KEPT_CHECKPOINTS: usize = 2;

/// A run to begin or to go on with.
pub struct TrainRequest {
    /// What to do.
    pub config: RunConfig,
    /// What was said, as it is kept in the run folder.
    pub settings: Settings,
    /// Whether to go on with the run in the folder.
    pub resume: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps taken in all.
    pub steps: u64,
    /// The last step's loss.
    pub loss: f64,
    /// Whether it was asked to stop before its end.
    pub stopped: bool,
    /// What was saved last: at the end of a run, its adapter or model.
    pub path: Option<PathBuf>,
}

/// Trains.
pub fn train(
    request: &TrainRequest,
    backend: Backend,
    stop: &StopFlag,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let mut run = Run::prepare(request, backend, observer, Oversight::default())?;
    run.go(stop)
}

/// A run that is ready to go.
pub(super) struct Run<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) session: Session,
    pub(super) folder: RunFolder,
    pub(super) loader: Loader,
    pub(super) valid: Option<Dataset>,
    pub(super) adamw: AdamW,
    /// Upper bound of the device memory that it will use, in bytes.
    pub(super) planned: u64,
    pub(super) schedule: Schedule,
    pub(super) steps: u64,
    pub(super) done: u64,
    pub(super) loss: f64,
    /// The step that the device was given after those done.
    pub(super) in_flight: Option<InFlight>,
    pub(super) pace: Pace,
    pub(super) saved: Option<PathBuf>,
    pub(super) data: Fingerprint,
    pub(super) model: BTreeMap<String, Fingerprint>,
    /// What a person should know of the run's beginning; told when it starts.
    pub(super) notes: Vec<String>,
    /// Where the trained state is kept for another process, if there is a place.
    pub(super) snapshots: Option<Snapshots>,
    pub(super) oversight: Oversight,
    pub(super) observer: &'a mut dyn Observer,
}

impl Run<'_> {
    pub(super) fn go(&mut self, stop: &StopFlag) -> Result<Summary, TrainError> {
        let begun = Instant::now();
        self.tell_start()?;
        if self.done == 0 {
            self.evaluate()?;
        }
        let stopped = self.take_steps(stop)?;
        self.folder.begin()?;
        match stopped {
            true => self.save_if_new()?,
            false => self.finish(begun)?,
        }
        Ok(Summary { steps: self.done, loss: self.loss, stopped, path: self.saved.clone() })
    }

    pub(super) fn evaluate(&mut self) -> Result<(), TrainError> {
        let Some(valid) = &self.valid else { return Ok(()) };
        let observer = &mut *self.observer;
        let rows = self.loader.rows();
        let mut progress = |done, total| observer.progress("evaluating", done, total);
        self.session.pulse.give(Sign::Stepping);
        let (loss, tokens) = mean_loss(&mut self.session, valid, rows, &mut progress)?;
        self.tell(Event::Eval { step: self.done, loss, tokens })
    }

    /// Saves what is not in a checkpoint yet.
    fn save_if_new(&mut self) -> Result<(), TrainError> {
        match self.done == 0 || self.saved.as_deref() == Some(&self.folder.checkpoint(self.done)) {
            true => Ok(()),
            false => self.save(),
        }
    }

    pub(super) fn state(&self) -> State {
        State::new((self.done, self.loss), self.session.precision, &self.data, &self.model)
    }

    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        let path = self.folder.checkpoint(self.done);
        let state = self.state();
        self.folder.check_place()?;
        self.folder.sync()?;
        self.session.pulse.give(Sign::Saving);
        self.write_checkpoint(&path, state)?;
        self.folder.prune(self.done, KEPT_CHECKPOINTS)?;
        self.saved = Some(path.clone());
        self.session.pulse.give(Sign::Stepping);
        self.tell(Event::Saved { step: self.done, path })
    }

    /// Where it cannot be written, what snapshots take may be just the space that is missing.
    fn write_checkpoint(&mut self, path: &Path, state: State) -> Result<(), TrainError> {
        let error = match checkpoint::save(&self.session, path, state.clone()) {
            Err(error) if !matches!(error, TrainError::Device(_)) && self.snapshots.is_some() => error,
            other => return other,
        };
        self.let_go_of_snapshots(&error)?;
        checkpoint::save(&self.session, path, state)
    }

    /// Takes no more snapshots, and gives back their space.
    pub(super) fn let_go_of_snapshots(&mut self, error: &TrainError) -> Result<(), TrainError> {
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.give_back();
        }
        self.warn(format!(
            "{error}; no more snapshots are taken: should the back end fail, the run will go on from its last checkpoint"
        ))
    }

    fn finish(&mut self, begun: Instant) -> Result<(), TrainError> {
        // A run that had reached its end before may have been killed while its result was published, or have come
        // to its last step by a snapshot.
        if self.saved.as_deref() != Some(&self.folder.checkpoint(self.done)) {
            self.save()?;
        }
        self.evaluate()?;
        let result = self.config.result();
        self.session.pulse.give(Sign::Saving);
        self.folder.check_place()?;
        checkpoint::publish(&self.folder.checkpoint(self.done), &result)?;
        self.saved = Some(result.clone());
        self.tell(Event::Saved { step: self.done, path: result })?;
        self.tell(Event::End { steps: self.done, loss: self.loss, seconds: begun.elapsed().as_secs_f64() })
    }

    pub(super) fn warn(&mut self, message: String) -> Result<(), TrainError> {
        self.tell(Event::Warning { message })
    }

    pub(super) fn tell(&mut self, event: Event) -> Result<(), TrainError> {
        for said in self.oversight.records.take() {
            self.folder.record(&said)?;
        }
        self.folder.record(&event)?;
        self.observer.event(&event);
        Ok(())
    }
}

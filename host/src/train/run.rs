//! The training loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use crate::data::{Batch, Dataset, Fingerprint, Loader, Prefetch};
use crate::optim::{self, AdamW, Schedule};

use super::checkpoint::{self, State};
use super::config::{RunConfig, Settings};
use super::error::TrainError;
use super::eval::mean_loss;
use super::event::{Event, Observer};
use super::folder::RunFolder;
use super::session::{Backend, Purpose, Session};
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
    let mut run = Run::prepare(request, backend, observer)?;
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
    pub(super) saved: Option<PathBuf>,
    pub(super) data: Fingerprint,
    pub(super) model: BTreeMap<String, Fingerprint>,
    /// What a person should know of the run's beginning; told when it starts.
    pub(super) notes: Vec<String>,
    pub(super) observer: &'a mut dyn Observer,
}

impl Run<'_> {
    fn go(&mut self, stop: &StopFlag) -> Result<Summary, TrainError> {
        let begun = Instant::now();
        self.tell_start()?;
        if self.done == 0 {
            self.evaluate()?;
        }
        let mut stopped = false;
        if self.done < self.steps {
            let mut batches = Prefetch::start(self.loader.clone(), self.done)?;
            while self.done < self.steps && !stopped {
                if stop.is_set() {
                    // Nothing is lost, and the folder can be resumed all the same.
                    stopped = true;
                    break;
                }
                let Some(prepared) = batches.next() else { break };
                let (_, batches) = prepared?;
                self.step(&batches)?;
                self.folder.begin()?;
                stopped = stop.is_set() && self.done < self.steps;
                let every = |n: u64, step: u64| n > 0 && step.is_multiple_of(n);
                if every(self.config.eval_every, self.done) && self.done < self.steps {
                    self.evaluate()?;
                }
                if stopped || every(self.config.save_every, self.done) || self.done == self.steps {
                    self.save()?;
                }
            }
        }
        self.folder.begin()?;
        match stopped {
            false => self.finish(begun)?,
            true if self.saved.is_none() && self.done > 0 => self.save()?,
            true => {}
        }
        Ok(Summary { steps: self.done, loss: self.loss, stopped, path: self.saved.clone() })
    }

    fn step(&mut self, batches: &[Batch]) -> Result<(), TrainError> {
        let begun = Instant::now();
        let step = self.done + 1;
        let tokens: u64 = batches.iter().map(|batch| batch.target_tokens).sum();
        let lr = self.schedule.lr(step);
        if tokens == 0 {
            self.warn(format!(
                "step {step}: no example of the batch has a target within --seq-len; its gradient is zero"
            ))?;
        }
        // Rows without targets have no gradient.
        for batch in batches.iter().filter(|batch| batch.target_tokens > 0) {
            self.session.accumulate(batch, self.config.seed, step)?;
        }
        // A batch without targets is applied like any other: the corrections count each step, and so must the
        // moments.
        let (loss, grad_norm) = self.apply(step, tokens, lr)?;
        (self.done, self.loss) = (step, loss);
        let step_s = begun.elapsed().as_secs_f64();
        let memory_bytes = self.session.backend.device.memory()?.peak;
        let tokens_per_s = tokens as f64 / step_s.max(f64::MIN_POSITIVE);
        self.tell(Event::Step { step, loss, lr, grad_norm, tokens, step_s, tokens_per_s, memory_bytes })
    }

    fn apply(&mut self, step: u64, tokens: u64, lr: f64) -> Result<(f64, f64), TrainError> {
        let (correction1, correction2) = self.adamw.corrections(step);
        let inputs = [
            (optim::input::INVERSE_TOKENS, (1.0 / tokens.max(1) as f64) as f32),
            (optim::input::LR, lr as f32),
            (optim::input::CORRECTION1, correction1),
            (optim::input::CORRECTION2, correction2),
        ];
        let bytes = inputs.map(|(name, value)| (name, value.to_le_bytes()));
        let inputs: Vec<(&str, &[u8])> =
            bytes.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let outputs = self.session.run(&Purpose::Apply, &inputs)?;
        let read = |name: &'static str| {
            let value = outputs.get(name).copied().map_or(f64::NAN, f64::from);
            match value.is_finite() {
                true => Ok(value),
                false => Err(TrainError::Diverged { step, what: name, value, saved: self.saved.clone() }),
            }
        };
        Ok((read(optim::output::LOSS)?, read(optim::output::GRAD_NORM)?))
    }

    fn evaluate(&mut self) -> Result<(), TrainError> {
        let Some(valid) = &self.valid else { return Ok(()) };
        let observer = &mut *self.observer;
        let rows = self.loader.rows();
        let mut progress = |done, total| observer.progress("evaluating", done, total);
        let (loss, tokens) = mean_loss(&mut self.session, valid, rows, &mut progress)?;
        self.tell(Event::Eval { step: self.done, loss, tokens })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let path = self.folder.checkpoint(self.done);
        let state = State::new((self.done, self.loss), self.session.precision, &self.data, &self.model);
        checkpoint::save(&self.session, &path, state)?;
        self.folder.prune(KEPT_CHECKPOINTS)?;
        self.saved = Some(path.clone());
        self.tell(Event::Saved { step: self.done, path })
    }

    fn finish(&mut self, begun: Instant) -> Result<(), TrainError> {
        // A run that had reached its end before may have been killed while its result was published.
        if self.saved.is_none() {
            self.save()?;
        }
        self.evaluate()?;
        let result = self.folder.result(self.config.method);
        checkpoint::publish(&self.folder.checkpoint(self.done), &result)?;
        self.saved = Some(result.clone());
        self.tell(Event::Saved { step: self.done, path: result })?;
        self.tell(Event::End { steps: self.done, loss: self.loss, seconds: begun.elapsed().as_secs_f64() })
    }

    pub(super) fn warn(&mut self, message: String) -> Result<(), TrainError> {
        self.tell(Event::Warning { message })
    }

    pub(super) fn tell(&mut self, event: Event) -> Result<(), TrainError> {
        self.folder.record(&event)?;
        self.observer.event(&event);
        Ok(())
    }
}

//! The steps of a run, one after another.
//!
//! On a device whose runs return before they are done, a step's numbers are read when the next step has been handed
//! over, so that the device has always something to do. Whoever needs the state of a step (a checkpoint, an
//! evaluation, the end, a stop) gets it read and checked first, as the first step of a process always is.

use std::time::{Duration, Instant};

use finetune_plugin_api::abi::PROPERTY_ASYNCHRONOUS;

use crate::data::{Batch, Prefetch};
use crate::optim;

use super::error::TrainError;
use super::event::Event;
use super::oversight::Sign;
use super::run::Run;
use super::session::Purpose;
use super::stop::StopFlag;

/// A step that the device was given and whose numbers have not been read.
pub(super) struct InFlight {
    step: u64,
    tokens: u64,
    lr: f64,
    /// The outputs of the apply program that it has.
    outputs: usize,
    /// When it was begun or, if it had to wait for the step before, when that was done.
    since: Instant,
    /// How long it took to hand over.
    handed_over: Duration,
    /// Whether a program ran in it for the first time.
    new: bool,
}

/// How long the latest step took, and how long to hand it over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    step: Duration,
    handed_over: Duration,
}

impl Run<'_> {
    /// Takes the steps that are left; true if it was asked to stop before the last. All that were begun are done and
    /// told of when it returns.
    pub(super) fn take_steps(&mut self, stop: &StopFlag) -> Result<bool, TrainError> {
        if self.done >= self.steps {
            return Ok(false);
        }
        let properties = self.session.backend.device.properties()?;
        let asynchronous = properties.get(PROPERTY_ASYNCHRONOUS).is_some_and(|value| value == true);
        let first = self.done + 1;
        let mut batches = Prefetch::start(self.loader.clone(), self.done)?;
        for step in first..=self.steps {
            if stop.is_set() {
                self.settle()?;
                return Ok(true);
            }
            let Some(prepared) = batches.next() else { break };
            let before = self.in_flight.take();
            let begun = match prepared {
                Ok((_, batches)) => self.begin(step, &batches),
                Err(error) => Err(error.into()),
            };
            // What went wrong first is told first.
            let done = before.map(|before| self.settle_one(before)).transpose()?;
            let mut begun = begun?;
            if let Some(done) = done {
                begun.since = done;
            }
            if !begun.new {
                self.session.pulse.give(Sign::Stepping);
            }
            self.in_flight = Some(begun);
            let stopped = stop.is_set() && step < self.steps;
            let every = |n: u64| n > 0 && step.is_multiple_of(n);
            let evaluates = every(self.config.eval_every) && step < self.steps;
            let saves = stopped || every(self.config.save_every) || step == self.steps;
            let keeps = asynchronous && self.is_snapshot_due();
            if asynchronous && step > first && !evaluates && !saves && !keeps {
                continue;
            }
            self.settle()?;
            self.folder.begin()?;
            if evaluates {
                self.evaluate()?;
            }
            if saves {
                self.save()?;
            }
            if stopped {
                return Ok(true);
            }
            // Last, so that whoever goes on from it need not do any of this again.
            if !saves && (keeps || (!asynchronous && self.is_snapshot_due())) {
                self.take_snapshot(asynchronous)?;
            }
        }
        self.settle()?;
        Ok(false)
    }

    /// Hands a step to the device.
    fn begin(&mut self, step: u64, batches: &[Batch]) -> Result<InFlight, TrainError> {
        let since = Instant::now();
        let compiled = self.session.compiled;
        let tokens: u64 = batches.iter().map(|batch| batch.target_tokens).sum();
        let lr = self.schedule.lr(step);
        // Rows without targets have no gradient.
        for batch in batches.iter().filter(|batch| batch.target_tokens > 0) {
            self.session.accumulate(batch, self.config.seed, step)?;
            if self.session.compiled == compiled {
                self.session.pulse.give(Sign::Stepping);
            }
        }
        // A batch without targets is applied like any other: the corrections count each step, and so must the
        // moments.
        let outputs = self.apply(step, tokens, lr)?;
        // Programs are compiled before the first step of a process, too.
        let new = self.session.compiled != compiled || self.pace.step.is_zero();
        Ok(InFlight { step, tokens, lr, outputs, since, handed_over: since.elapsed(), new })
    }

    fn apply(&mut self, step: u64, tokens: u64, lr: f64) -> Result<usize, TrainError> {
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
        self.session.submit(&Purpose::Apply, &inputs)
    }

    fn is_snapshot_due(&mut self) -> bool {
        let step = self.pace.step;
        self.snapshots.as_mut().is_some_and(|snapshots| snapshots.is_due(step))
    }

    /// Keeps the state for the process that goes on if this one dies. That it cannot be kept does not end the run.
    fn take_snapshot(&mut self, asynchronous: bool) -> Result<(), TrainError> {
        let state = self.state();
        let Some(snapshots) = &mut self.snapshots else { return Ok(()) };
        // A device that works ahead stands idle until it is given the next step.
        let stall = if asynchronous { self.pace.handed_over } else { Duration::ZERO };
        self.session.pulse.give(Sign::Saving);
        match snapshots.take(&self.session, &state, stall) {
            Ok(()) => self.session.pulse.give(Sign::Kept(self.done)),
            Err(error @ TrainError::Device(_)) => return Err(error),
            Err(error) => self.let_go_of_snapshots(&error)?,
        }
        self.session.pulse.give(Sign::Stepping);
        Ok(())
    }

    /// Waits for the step in flight, if there is one, and tells of it.
    fn settle(&mut self) -> Result<(), TrainError> {
        match self.in_flight.take() {
            Some(step) => {
                self.settle_one(step)?;
                self.session.pulse.give(Sign::Stepping);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Waits for a step and tells of it; returns when it was done.
    fn settle_one(&mut self, step: InFlight) -> Result<Instant, TrainError> {
        let InFlight { step, tokens, lr, outputs, since, handed_over, .. } = step;
        let outputs = self.session.outputs(&Purpose::Apply, outputs)?;
        let read = |name: &'static str| {
            let value = outputs.get(name).copied().map_or(f64::NAN, f64::from);
            match value.is_finite() {
                true => Ok(value),
                false => Err(TrainError::Diverged { step, what: name, value, saved: self.saved.clone() }),
            }
        };
        let (loss, grad_norm) = (read(optim::output::LOSS)?, read(optim::output::GRAD_NORM)?);
        let now = Instant::now();
        (self.done, self.loss) = (step, loss);
        if tokens == 0 {
            self.warn(format!(
                "step {step}: no example of the batch has a target within --seq-len; its gradient is zero"
            ))?;
        }
        self.pace = Pace { step: now.duration_since(since), handed_over };
        let step_s = self.pace.step.as_secs_f64();
        let memory_bytes = self.session.backend.device.memory()?.peak;
        let tokens_per_s = tokens as f64 / step_s.max(f64::MIN_POSITIVE);
        self.tell(Event::Step { step, loss, lr, grad_norm, tokens, step_s, tokens_per_s, memory_bytes })?;
        Ok(now)
    }
}

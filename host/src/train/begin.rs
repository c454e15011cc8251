//! How a run begins or goes on: everything is opened and checked before the first step.

use std::path::Path;
use std::sync::Arc;

use crate::data::{ChatTemplate, EvalBatches, Fingerprint, Loader, LoaderOptions, Tokenizer};
use crate::optim::{AdamW, Schedule};

use super::backend::Backend;
use super::checkpoint::{self, State};
use super::config::{Length, Method, RunConfig};
use super::error::TrainError;
use super::eval::Chat;
use super::event::{Event, Observer};
use super::folder::RunFolder;
use super::memory;
use super::oversight::{Oversight, Sign};
use super::plan::{Lengths, planned_peak};
use super::run::{Run, TrainRequest};
use super::session::{Purpose, Session};
use super::snapshot::Snapshots;
use super::source::{AdapterSource, LoraSettings, Source};
use super::steps::Pace;
use super::verify::verify;

impl<'a> Run<'a> {
    /// Opens everything that the run needs, and puts it on the device.
    pub(super) fn prepare(
        request: &'a TrainRequest,
        backend: Backend,
        observer: &'a mut dyn Observer,
        mut oversight: Oversight,
    ) -> Result<Run<'a>, TrainError> {
        let config = &request.config;
        // A process before this one may have died before it was a run.
        let resume = request.resume || (oversight.again && RunFolder::is_run(&config.out));
        let precision = backend.precision(config.precision)?;
        let source = Source::open(&config.model, config.seed)?;
        source.check_length(config.seq_len)?;
        let adapter = match config.method {
            Method::Full => None,
            Method::Lora => Some(AdapterSource::new(&source, &config.model, lora_settings(config))?),
        };
        let tokenizer = Tokenizer::from_model(&config.model)?;
        let mut chat = Chat::new(config.chat_template.as_deref(), &config.model)?;
        let mut open = |path: &Path| chat.open(path, &tokenizer, config.seq_len);
        let mut loader = Loader::new(Arc::new(open(&config.data)?), loader_options(config))?;
        let valid = config.valid.as_deref().map(open).transpose()?;
        let steps = match config.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => loader.steps().unwrap_or(u64::MAX),
        };
        let mut session = Session::new(backend, source, adapter, precision, config.method == Method::Full)?;
        session.pulse = oversight.pulse.clone();
        let adamw = adamw(config);
        let fits = fit(&mut session, &mut loader, config, |session, loader| {
            let lengths = Lengths {
                training: loader.lengths(steps)?,
                held_out: valid
                    .as_ref()
                    .map_or(Ok(Vec::new()), |valid| EvalBatches::lengths(valid, loader.rows()))?,
            };
            planned_peak(session, &adamw, loader.rows(), &lengths)
        })?;
        if config.verify {
            verify(&session, config)?;
        }
        let mut folder = match resume {
            true => RunFolder::resume(&config.out, &request.settings)?,
            false => RunFolder::create(&config.out, &request.settings, &config.result())?,
        };
        for event in std::mem::take(&mut oversight.history) {
            folder.record(&event)?;
        }
        oversight.pulse.give(Sign::Recorded);
        let snapshots = oversight.snapshots.take().map(|file| Snapshots::new(file, &session));
        // Rows without conversations do not depend on it.
        let fingerprint =
            chat.template.as_ref().filter(|_| loader.dataset().has_chat()).map(ChatTemplate::fingerprint);
        let mut run = Run {
            config,
            folder,
            loader,
            valid,
            adamw,
            planned: fits.planned,
            schedule: Schedule { kind: config.schedule, peak: config.lr, warmup: config.warmup, steps },
            steps,
            done: 0,
            loss: f64::NAN,
            in_flight: None,
            pace: Pace::default(),
            saved: None,
            notes: fits.notes,
            snapshots,
            oversight,
            data: Fingerprint { template: fingerprint, ..Fingerprint::of(&config.data)? },
            model: checkpoint::fingerprints(&session)?,
            session,
            observer,
        };
        run.load(resume)?;
        Ok(run)
    }

    /// Brings model, state and, for a run that goes on, its last checkpoint to the device.
    fn load(&mut self, resume: bool) -> Result<(), TrainError> {
        let ignored = self.session.source.ignored();
        if !ignored.is_empty() {
            let shown = ignored.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            self.notes.push(format!(
                "{} tensors of the model's files are not part of a {} model and are ignored: {shown}{}",
                ignored.len(),
                self.session.source.architecture.model_type(),
                if ignored.len() > 3 { ", ..." } else { "" }
            ));
        }
        if self.session.source.files.tensors().is_none() && self.config.method == Method::Lora {
            self.notes.push(format!(
                "the model starts from random weights, which are not kept: the adapter will be of use only on the \
                 same config.json with --seed {}",
                self.config.seed
            ));
        }
        self.note_cut_examples();
        let observer = &mut *self.observer;
        self.session.pulse.give(Sign::Loading);
        self.session.load(&mut |done, total| observer.progress("loading the model", done, total))?;
        self.session.begin_state()?;
        if resume {
            self.restore()?;
        }
        let apply = match self.session.kept(&Purpose::Apply) {
            Some(apply) => apply,
            None => self.session.apply_program(&self.adamw)?,
        };
        self.session.compile(Purpose::Apply, &apply)
    }

    /// Says what of the data is not learned from, as far as the examples go that were looked at.
    fn note_cut_examples(&mut self) {
        let (seen, seq_len) = (self.loader.dataset().skipped(), self.config.seq_len);
        let examples = seen.examples;
        if seen.truncated > 0 {
            self.notes.push(format!(
                "{} of the first {examples} examples are longer than --seq-len {seq_len} and are cut there{}",
                seen.truncated,
                match self.loader.dataset().has_chat() {
                    true => ", conversations after the last of the assistant's turns that fits",
                    false => "",
                }
            ));
        }
        if seen.without_targets > 0 {
            let line = seen.first_line.map_or(String::new(), |line| format!(" (the first in line {line})"));
            self.notes.push(format!(
                "{} of the first {examples} examples{line} have no target within --seq-len {seq_len}; nothing is \
                 learned from them",
                seen.without_targets
            ));
        }
    }

    /// Takes up the latest state that there is: a snapshot of a process that died just now, or a checkpoint.
    fn restore(&mut self) -> Result<(), TrainError> {
        let snapshot = self.snapshots.as_mut().and_then(Snapshots::find);
        let snapshot = snapshot.filter(|_| self.oversight.again);
        if let Some(found) = &snapshot {
            self.check_same(&found.state)?;
        }
        let kept = snapshot.as_ref().map(|found| found.state.step);
        if self.restore_checkpoint(kept)? {
            return Ok(());
        }
        if let (Some(snapshots), Some(found)) = (&mut self.snapshots, &snapshot) {
            snapshots.restore(&self.session, found)?;
            (self.done, self.loss) = (found.state.step, found.state.loss);
            tracing::info!("going on from the state after step {} that was kept", self.done);
            return self.folder.forget_after(self.done);
        }
        self.notes.push("the run has no usable checkpoint; it begins anew".into());
        self.folder.forget_after(0)
    }

    /// Takes up the latest checkpoint that can be used, if it is not from before the step `kept`; whether there was
    /// one. The one before `kept` is what there is to fall back on by hand.
    fn restore_checkpoint(&mut self, kept: Option<u64>) -> Result<bool, TrainError> {
        for step in self.folder.checkpoints()? {
            let path = self.folder.checkpoint(step);
            // What this user or the disk cannot read now is not damaged, and nothing may take its place.
            checkpoint::check_readable(&path)?;
            let state = match checkpoint::check(&path) {
                Ok(state) => state,
                Err(error) => {
                    self.notes.push(format!("{error}; going on from the checkpoint before it"));
                    continue;
                }
            };
            self.check_same(&state)?;
            if kept.is_some_and(|kept| kept > state.step) {
                self.saved = Some(path);
                return Ok(false);
            }
            if state.step > self.steps {
                return Err(TrainError::Settings(format!(
                    "the run has taken {} steps already, and {} are asked for; ask for more to go on, or begin a new \
                     run in another --out",
                    state.step, self.steps
                )));
            }
            checkpoint::restore(&self.session, &path)?;
            (self.done, self.loss, self.saved) = (state.step, state.loss, Some(path));
            self.folder.forget_after(state.step)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn check_same(&self, state: &State) -> Result<(), TrainError> {
        if state.data != self.data {
            return Err(TrainError::folder(
                &self.config.data,
                "the data, or the chat template that makes text of it, is not what the run was begun with, so it cannot be resumed as the same run; bring the \
                 file back, or begin a new run from the last checkpoint",
            ));
        }
        if state.precision != self.session.precision {
            return Err(TrainError::Settings(format!(
                "the run was begun in {}, and this device would go on in {}; take --precision {0} or the device that \
                 it was begun on",
                state.precision, self.session.precision
            )));
        }
        if state.model != self.model {
            return Err(TrainError::folder(
                &self.config.model,
                "the model's files are not those that the run was begun with; bring them back, or begin a new run",
            ));
        }
        Ok(())
    }

    /// Says what will be trained, where, and in how much memory.
    pub(super) fn tell_start(&mut self) -> Result<(), TrainError> {
        let trained = self.session.trained().iter();
        let trainable: u64 = trained.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let adapted = if self.session.adapter.is_some() { trainable } else { 0 };
        let event = Event::Start {
            backend: self.session.backend.name.clone(),
            device: self.session.backend.device_name.clone(),
            precision: self.session.precision.to_string(),
            trainable,
            parameters: self.session.source.parameters() + adapted,
            peak_bytes_planned: self.planned,
            resumed_from: self.done,
            steps: self.steps,
        };
        self.tell(event)?;
        for message in std::mem::take(&mut self.notes) {
            self.warn(message)?;
        }
        Ok(())
    }
}

/// What a run will need.
struct Fits {
    planned: u64,
    notes: Vec<String>,
}

/// A run that needs more than there is is not begun: some systems would end the process in the middle of it. With
/// fewer examples at once it needs less, and its steps stay the same.
fn fit(
    session: &mut Session,
    loader: &mut Loader,
    config: &RunConfig,
    plan: impl Fn(&mut Session, &Loader) -> Result<u64, TrainError>,
) -> Result<Fits, TrainError> {
    let room = memory::room(session, config.reserve)?;
    let asked = loader.rows();
    let mut notes = Vec::new();
    let wanted = plan(session, loader)?;
    let mut planned = wanted;
    while let Some(room) = room.as_ref().filter(|room| planned > room.bytes) {
        if config.strict || loader.rows() == 1 {
            return Err(TrainError::DoesNotFit(room.refusal(planned, &session.backend.device_name)));
        }
        *loader = loader.with_micro_batch(loader.rows().div_ceil(2))?;
        session.forget_kept();
        planned = plan(session, loader)?;
    }
    if let Some(room) = room.filter(|_| loader.rows() < asked) {
        notes.push(format!(
            "{}; {} examples are computed at once in place of {asked}, which gives the same steps",
            room.shortage(wanted, &session.backend.device_name),
            loader.rows()
        ));
    }
    Ok(Fits { planned, notes })
}

pub(super) fn lora_settings(config: &RunConfig) -> LoraSettings<'_> {
    LoraSettings {
        adapter: config.adapter.as_deref(),
        rank: config.rank,
        alpha: config.alpha,
        targets: config.targets.as_deref(),
        dropout: config.dropout,
    }
}

pub(super) fn loader_options(config: &RunConfig) -> LoaderOptions {
    LoaderOptions {
        batch: config.batch,
        micro_batch: config.micro_batch,
        seed: config.seed,
        shuffle: config.shuffle,
        epochs: match config.length {
            Length::Steps(_) => None,
            Length::Epochs(epochs) => Some(epochs),
        },
    }
}

pub(super) fn adamw(config: &RunConfig) -> AdamW {
    AdamW {
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        weight_decay: config.weight_decay,
        clip: (config.clip > 0.0).then_some(config.clip),
    }
}

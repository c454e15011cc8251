//! How a run begins or goes on: everything is opened and checked before the first step.

use std::path::Path;
use std::sync::Arc;

use finetune_plugin_api::program::{DType, TensorType};

use crate::data::{ChatTemplate, EvalBatches, Fingerprint, Loader, LoaderOptions, Tokenizer};
use crate::optim::{AdamW, Schedule, state};

use super::checkpoint::{self, State};
use super::config::{Length, Method, RunConfig};
use super::error::TrainError;
use super::eval::Chat;
use super::event::{Event, Observer};
use super::folder::RunFolder;
use super::plan::{Lengths, planned_peak};
use super::run::{Run, TrainRequest};
use super::session::{Backend, Purpose, Session};
use super::source::{AdapterSource, LoraSettings, Source};

impl<'a> Run<'a> {
    /// Opens everything that the run needs, and puts it on the device.
    pub(super) fn prepare(
        request: &'a TrainRequest,
        backend: Backend,
        observer: &'a mut dyn Observer,
    ) -> Result<Run<'a>, TrainError> {
        let config = &request.config;
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
        let loader = Loader::new(Arc::new(open(&config.data)?), loader_options(config))?;
        let valid = config.valid.as_deref().map(open).transpose()?;
        let steps = match config.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => loader.steps().unwrap_or(u64::MAX),
        };
        let mut session = Session::new(backend, source, adapter, precision, config.method == Method::Full)?;
        let adamw = adamw(config);
        let lengths = Lengths {
            training: loader.lengths(steps)?,
            held_out: valid
                .as_ref()
                .map_or(Ok(Vec::new()), |valid| EvalBatches::lengths(valid, loader.rows()))?,
        };
        let planned = planned_peak(&mut session, &adamw, loader.rows(), &lengths)?;
        check_fits(&session, planned)?;
        let folder = match request.resume {
            true => RunFolder::resume(&config.out, &request.settings)?,
            false => RunFolder::create(&config.out, &request.settings)?,
        };
        // Rows without conversations do not depend on it.
        let fingerprint =
            chat.template.as_ref().filter(|_| loader.dataset().has_chat()).map(ChatTemplate::fingerprint);
        let mut run = Run {
            config,
            folder,
            loader,
            valid,
            adamw,
            planned,
            schedule: Schedule { kind: config.schedule, peak: config.lr, warmup: config.warmup, steps },
            steps,
            done: 0,
            loss: f64::NAN,
            in_flight: None,
            saved: None,
            notes: Vec::new(),
            data: Fingerprint { template: fingerprint, ..Fingerprint::of(&config.data)? },
            model: checkpoint::fingerprints(&session)?,
            session,
            observer,
        };
        run.load(request.resume)?;
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
        self.session.load(&mut |done, total| observer.progress("loading the model", done, total))?;
        for tensor in self.session.trained().to_vec() {
            let ty = TensorType::new(DType::F32, &tensor.shape);
            for name in [
                state::gradient(&tensor.name),
                state::first_moment(&tensor.name),
                state::second_moment(&tensor.name),
            ] {
                self.session.zeros(&name, &ty)?;
            }
        }
        self.session.zeros(state::LOSS_SUM, &TensorType::scalar(DType::F32))?;
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

    fn restore(&mut self) -> Result<(), TrainError> {
        for step in self.folder.checkpoints()? {
            let path = self.folder.checkpoint(step);
            let state = match checkpoint::check(&path) {
                Ok(state) => state,
                Err(error) => {
                    self.notes.push(format!("{error}; going on from the checkpoint before it"));
                    continue;
                }
            };
            self.check_same(&state)?;
            if state.step > self.steps {
                return Err(TrainError::Settings(format!(
                    "the run has taken {} steps already, and {} are asked for; ask for more to go on, or begin a new \
                     run in another --out",
                    state.step, self.steps
                )));
            }
            checkpoint::restore(&self.session, &path)?;
            (self.done, self.loss, self.saved) = (state.step, state.loss, Some(path));
            return self.folder.forget_after(state.step);
        }
        self.notes.push("the run has no usable checkpoint; it begins anew".into());
        self.folder.forget_after(0)
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

/// A run that needs more than the device has is not begun: some systems would end the process in the middle of it.
fn check_fits(session: &Session, planned: u64) -> Result<(), TrainError> {
    let total = session.backend.device.memory()?.total;
    // A device that does not know its memory says 0.
    if total == 0 || planned <= total {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(TrainError::Settings(format!(
        "the run would need up to {:.1} GiB, and {} has {:.1} GiB; a smaller --micro-batch or --seq-len, or --method \
         lora with a small --rank, needs less",
        gib(planned),
        session.backend.device_name,
        gib(total)
    )))
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

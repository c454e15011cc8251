//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use finetune_plugin_api::program::{DType, TensorType};

use crate::data::{Batch, Dataset, Fingerprint, Loader, LoaderOptions, Prefetch, Tokenizer};
use crate::optim::{self, AdamW, Schedule, state};

use super::checkpoint::{self, State};
use super::config::{Length, Method, RunConfig, Settings};
use super::error::TrainError;
use super::event::{Event, Observer};
use super::folder::RunFolder;
use super::plan::planned_peak;
use super::session::{Backend, Purpose, Session};
use super::source::{AdapterSource, LoraSettings, Source};
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
struct Run<'a> {
    config: &'a RunConfig,
    session: Session,
    folder: RunFolder,
    loader: Loader,
    valid: Option<Dataset>,
    adamw: AdamW,
    schedule: Schedule,
    steps: u64,
    done: u64,
    loss: f64,
    saved: Option<PathBuf>,
    data: Fingerprint,
    model: BTreeMap<String, Fingerprint>,
    observer: &'a mut dyn Observer,
}

impl<'a> Run<'a> {
    fn prepare(
        request: &'a TrainRequest,
        backend: Backend,
        observer: &'a mut dyn Observer,
    ) -> Result<Run<'a>, TrainError> {
        let config = &request.config;
        let precision = backend.precision(config.precision)?;
        let source = Source::open(&config.model, config.seed)?;
        check_length(&source, config.seq_len)?;
        let adapter = match config.method {
            Method::Full => None,
            Method::Lora => Some(AdapterSource::new(&source, &config.model, lora_settings(config))?),
        };
        let tokenizer = Tokenizer::from_folder(source.folder.dir())?;
        check_vocabulary(&source, &tokenizer)?;
        let dataset = Arc::new(Dataset::open(&config.data, &tokenizer, config.seq_len)?);
        let valid = config
            .valid
            .as_deref()
            .map(|path| Dataset::open(path, &tokenizer, config.seq_len))
            .transpose()?;
        let loader = Loader::new(dataset, loader_options(config))?;
        let steps = match config.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => loader.steps().unwrap_or(u64::MAX),
        };
        let folder = match request.resume {
            true => RunFolder::resume(&config.out, &request.settings)?,
            false => RunFolder::create(&config.out, &request.settings)?,
        };
        let session = Session::new(backend, source, adapter, precision, config.method == Method::Full);
        let clip = (config.clip > 0.0).then_some(config.clip);
        let mut run = Run {
            config,
            folder,
            loader,
            valid,
            adamw: AdamW {
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: config.weight_decay,
                clip,
            },
            schedule: Schedule { kind: config.schedule, peak: config.lr, warmup: config.warmup, steps },
            steps,
            done: 0,
            loss: f64::NAN,
            saved: None,
            data: Fingerprint::of(&config.data)?,
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
            self.warn(format!(
                "{} tensors of the model's files are not part of a {} model and are ignored: {shown}{}",
                ignored.len(),
                self.session.source.architecture.model_type(),
                if ignored.len() > 3 { ", ..." } else { "" }
            ))?;
        }
        if self.session.source.folder.tensors().is_none() && self.config.method == Method::Lora {
            self.warn(format!(
                "the model starts from random weights, which are not kept: the adapter will be of use only on the \
                 same config.json with --seed {}",
                self.config.seed
            ))?;
        }
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
        let apply = self.session.apply_program(&self.adamw)?;
        self.session.compile(Purpose::Apply, &apply)
    }

    fn restore(&mut self) -> Result<(), TrainError> {
        for step in self.folder.checkpoints()? {
            let path = self.folder.checkpoint(step);
            let state = match checkpoint::check(&path) {
                Ok(state) => state,
                Err(error) => {
                    self.warn(format!("{error}; going on from the checkpoint before it"))?;
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
        self.warn("the run has no usable checkpoint; it begins anew".into())?;
        self.folder.forget_after(0)
    }

    fn check_same(&self, state: &State) -> Result<(), TrainError> {
        if state.data != self.data {
            return Err(TrainError::folder(
                &self.config.data,
                "the data is not what the run was begun with, so it cannot be resumed as the same run; bring the \
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

    fn go(&mut self, stop: &StopFlag) -> Result<Summary, TrainError> {
        let begun = Instant::now();
        self.start()?;
        if self.done == 0 {
            self.evaluate()?;
        }
        let mut stopped = false;
        if self.done < self.steps {
            let mut batches = Prefetch::start(self.loader.clone(), self.done)?;
            while self.done < self.steps && !stopped {
                if stop.is_set() {
                    stopped = true;
                    break;
                }
                let Some(prepared) = batches.next() else { break };
                let (_, batches) = prepared?;
                self.step(&batches)?;
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
        match stopped {
            false => self.finish(begun)?,
            // Stopped before the first step: nothing is lost, and the folder can be resumed all the same.
            true if self.saved.is_none() && self.done > 0 => self.save()?,
            true => {}
        }
        Ok(Summary { steps: self.done, loss: self.loss, stopped, path: self.saved.clone() })
    }

    fn start(&mut self) -> Result<(), TrainError> {
        let trained = self.session.trained().iter();
        let trainable: u64 = trained.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let adapted = if self.session.adapter.is_some() { trainable } else { 0 };
        let event = Event::Start {
            backend: self.session.backend.name.clone(),
            device: self.session.backend.device_name.clone(),
            precision: self.session.precision.to_string(),
            trainable,
            parameters: self.session.source.parameters() + adapted,
            peak_bytes_planned: planned_peak(
                &self.session,
                &self.adamw,
                self.loader.rows(),
                self.loader.buckets(),
                self.valid.is_some(),
            )?,
            resumed_from: self.done,
            steps: self.steps,
        };
        self.tell(event)
    }

    fn step(&mut self, batches: &[Batch]) -> Result<(), TrainError> {
        let begun = Instant::now();
        let step = self.done + 1;
        let tokens: u64 = batches.iter().map(|batch| batch.target_tokens).sum();
        let lr = self.schedule.lr(step);
        let (mut loss, mut grad_norm) = (0.0, 0.0);
        if tokens == 0 {
            self.warn(format!(
                "step {step}: no example of the batch has a target within --seq-len; nothing is learned from it"
            ))?;
        } else {
            // Rows without targets have no gradient either.
            for batch in batches.iter().filter(|batch| batch.target_tokens > 0) {
                self.session.accumulate(batch, self.config.seed, step)?;
            }
            (loss, grad_norm) = self.apply(step, tokens, lr)?;
        }
        (self.done, self.loss) = (step, loss);
        let step_s = begun.elapsed().as_secs_f64();
        let memory_bytes = self.session.backend.device.memory()?.peak;
        let tokens_per_s = tokens as f64 / step_s.max(f64::MIN_POSITIVE);
        self.tell(Event::Step { step, loss, lr, grad_norm, tokens, step_s, tokens_per_s, memory_bytes })
    }

    fn apply(&mut self, step: u64, tokens: u64, lr: f64) -> Result<(f64, f64), TrainError> {
        let (correction1, correction2) = self.adamw.corrections(step);
        let inputs = [
            (optim::input::INVERSE_TOKENS, (1.0 / tokens as f64) as f32),
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
        let (loss, tokens) = super::eval::mean_loss(&mut self.session, valid, rows, &mut progress)?;
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

    fn warn(&mut self, message: String) -> Result<(), TrainError> {
        self.tell(Event::Warning { message })
    }

    fn tell(&mut self, event: Event) -> Result<(), TrainError> {
        self.folder.record(&event)?;
        self.observer.event(&event);
        Ok(())
    }
}

fn lora_settings(config: &RunConfig) -> LoraSettings<'_> {
    LoraSettings {
        adapter: config.adapter.as_deref(),
        rank: config.rank,
        alpha: config.alpha,
        targets: config.targets.as_deref(),
        dropout: config.dropout,
    }
}

fn loader_options(config: &RunConfig) -> LoaderOptions {
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

/// Positions that the model can tell apart are enough for the sequence length.
pub(super) fn check_length(source: &Source, seq_len: usize) -> Result<(), TrainError> {
    match source.architecture.position_limit() {
        Some(limit) if seq_len > limit => Err(TrainError::Settings(format!(
            "--seq-len {seq_len} is more than the {limit} positions that the model has; take {limit} or less"
        ))),
        _ => Ok(()),
    }
}

/// No token of the tokenizer is beyond the model's vocabulary.
pub(super) fn check_vocabulary(source: &Source, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let vocabulary = source.architecture.vocabulary();
    match tokenizer.largest_id() as usize {
        largest if largest >= vocabulary => Err(TrainError::Settings(format!(
            "the tokenizer in {} has ids up to {largest}; the model's vocabulary has {vocabulary}. They do not belong \
             together",
            Path::display(source.folder.dir())
        ))),
        _ => Ok(()),
    }
}

//! What a run tells while it goes on. With `--json` each event is one line on stdout; the same lines are kept
//! in the run folder's `metrics.jsonl`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The run begins, or goes on.
    Start {
        /// The plugin's name.
        backend: String,
        /// The device's name.
        device: String,
        /// `f32` or `bf16`.
        precision: String,
        /// Elements of trained tensors.
        trainable: u64,
        /// Elements of all tensors of model and adapter.
        parameters: u64,
        /// Upper bound of the device memory that the run will use, computed before it begins.
        peak_bytes_planned: u64,
        /// The step after which it goes on; 0 for a new run.
        resumed_from: u64,
        /// The last step.
        steps: u64,
    },
    /// A step was taken.
    Step {
        /// Its number, from 1.
        step: u64,
        /// The batch's loss a target token, in nats, before the step's update.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// The learning rate.
        lr: f64,
        /// The gradient's global norm before clipping.
        #[serde(deserialize_with = "number")]
        grad_norm: f64,
        /// Target tokens.
        tokens: u64,
        /// How long the step took, in seconds.
        step_s: f64,
        /// Target tokens a second.
        tokens_per_s: f64,
        /// Device memory in use, in bytes: the most since the run began.
        memory_bytes: u64,
    },
    /// Held-out data was evaluated.
    Eval {
        /// Steps taken before it.
        step: u64,
        /// Loss a target token, in nats.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Target tokens.
        tokens: u64,
    },
    /// Something was saved that can be loaded.
    Saved {
        /// Steps taken before it.
        step: u64,
        /// A folder: an adapter as PEFT has it or a model as transformers has it.
        #[serde(serialize_with = "readable")]
        path: PathBuf,
    },
    /// Something a person should know.
    Warning {
        /// A sentence.
        message: String,
    },
    /// A back end failed, and the run goes on another way or ends.
    Fallback {
        /// The step after which it goes on.
        step: u64,
        /// What happened.
        cause: Cause,
        /// The back end that failed, as `NAME:DEVICE`.
        backend: String,
        /// The one that the run goes on with, likewise; none if it ends.
        next: Option<String>,
        /// Examples computed at once from here on.
        micro_batch: usize,
        /// All of it as a sentence.
        message: String,
    },
    /// The machine is short of memory, or the back end holds more and more of it.
    Memory {
        /// What is free or can be freed, in bytes.
        available_bytes: u64,
        /// Swap in use, in bytes.
        swap_bytes: u64,
        /// What the process that trains holds, in bytes.
        worker_bytes: u64,
        /// What it means, as a sentence.
        message: String,
    },
    /// The run has ended.
    End {
        /// Steps taken in all.
        steps: u64,
        /// The last step's loss.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// How long this process trained, in seconds.
        seconds: f64,
    },
}

/// Why a run cannot go on as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The process that trained died.
    Crash,
    /// It gave no sign of life for far longer than a step takes.
    Hang,
    /// A call of the back end failed.
    Error,
    /// The device is gone.
    DeviceLost,
    /// The device's or the machine's memory ran out.
    OutOfMemory,
    /// The run's memory, computed before it begins, is more than there is.
    DoesNotFit,
    /// The back end cannot do this.
    Unsupported,
    /// The back end computes something else than the reference interpreter.
    WrongNumbers,
}

/// JSON has no word for what is no number.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// JSON is Unicode; a path that is not must not end the run that it tells of.
fn readable<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Whoever wants to know of events.
pub trait Observer {
    /// An event.
    fn event(&mut self, event: &Event);

    /// The event of a failure that ends the run, and is told of as its error.
    fn last(&mut self, event: &Event) {
        self.event(event);
    }

    /// Something long has come to `done` of `total` units; `what` names it for a person.
    fn progress(&mut self, _what: &str, _done: u64, _total: u64) {}
}

//! What a run is asked to do.
//!
//! [`Settings`] is what a person may say, on the command line or in a file, each of it optional;
//! [`RunConfig`] is what comes of it, complete. The command line lies over the file ([`Settings::overlay`]),
//! defaults fill what neither says ([`Settings::complete`]), and [`Settings::resolve`] checks every value.
//! A relative path, also one in a file, is relative to the working directory.

pub mod complete;
mod error;
mod file;
mod merge;
mod size;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::any_path;

pub use crate::optim::ScheduleKind;

pub use error::ConfigError;
pub use size::Size;

/// The groups in which help shows the flags.
pub mod heading {
    /// What is trained, on what.
    pub const MODEL: &str = "Model and data";
    /// What of it is trained.
    pub const ADAPTER: &str = "Adapter";
    /// How it is trained.
    pub const TRAINING: &str = "Training";
    /// What is generated.
    pub const TEXT: &str = "Text";
    /// How tokens are chosen.
    pub const SAMPLING: &str = "Sampling";
    /// Where and with what record.
    pub const RUNNING: &str = "Running";
}

/// Which tensors are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every tensor of the model.
    Full,
    /// LoRA adapters beside the frozen model.
    Lora,
}

/// A precision, or the device's own best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 where the device computes it natively, else f32.
    Auto,
    /// f32 throughout.
    F32,
    /// Frozen weights and activations in bf16.
    Bf16,
}

/// The settings of a run; each flag is also a key of the config file.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Model: a Hugging Face folder, a GGUF file, or a config.json to start from random weights
    #[arg(long, value_name = "DIR|FILE.gguf|config.json", help_heading = heading::MODEL)]
    #[serde(default, with = "any_path::option", skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Training data: JSONL rows {"text"}, {"prompt","completion"} or {"messages"}, or plain text
    #[arg(long, value_name = "FILE", help_heading = heading::MODEL)]
    #[serde(default, with = "any_path::option", skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Held-out data, evaluated before, during (--eval-every) and after training
    #[arg(long, value_name = "FILE", help_heading = heading::MODEL)]
    #[serde(default, with = "any_path::option", skip_serializing_if = "Option::is_none")]
    pub valid: Option<PathBuf>,
    /// Chat template (jinja) for {"messages"} rows, in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = heading::MODEL)]
    #[serde(default, with = "any_path::option", skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Train all of the model, or LoRA adapters beside it [default: lora]
    #[arg(long, help_heading = heading::ADAPTER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// LoRA rank [default: 8]
    #[arg(long, value_name = "N", help_heading = heading::ADAPTER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// LoRA alpha; adapters are scaled by alpha/rank [default: 16]
    #[arg(long, value_name = "F", help_heading = heading::ADAPTER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Layers that get an adapter: all-linear (without the head), attention, or names with commas [default: all-linear]
    #[arg(long, value_name = "TARGETS", help_heading = heading::ADAPTER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Dropout on the adapters' input [default: 0]
    #[arg(long, value_name = "F", help_heading = heading::ADAPTER)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Start from this PEFT adapter; rank, alpha and targets come from it
    #[arg(long, value_name = "DIR", help_heading = heading::ADAPTER)]
    #[serde(default, with = "any_path::option", skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Examples in a step [default: 8]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Examples computed at once; smaller needs less memory and gives the same steps [default: the batch]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Positions of an example; longer ones are cut [default: 512]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_len: Option<usize>,
    /// Steps to train for
    #[arg(long, value_name = "N", conflicts_with = "epochs", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Times to go through the data [default: 1]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Learning rate [default: 2e-4 for lora, 2e-5 for full]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate after the warmup [default: constant]
    #[arg(long, help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleKind>,
    /// Steps in which the learning rate rises from zero [default: 0]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// AdamW's decoupled weight decay, on every trained tensor [default: 0]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// AdamW's decay of the first moment [default: 0.9]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// AdamW's decay of the second moment [default: 0.999]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-8]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// Largest global norm of the gradient; 0 for no limit [default: 1]
    #[arg(long, value_name = "F", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Seed of order, dropout and new tensors [default: 0]
    #[arg(long, value_name = "N", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Take the examples in the file's order
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "true|false",
        default_missing_value = "true", help_heading = heading::TRAINING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_shuffle: Option<bool>,
    /// Precision of frozen weights and activations [default: auto]
    #[arg(long, help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionChoice>,
    /// Back end: auto, NAME or NAME:DEVICE [default: auto]
    #[arg(long, value_name = "NAME", env = "FINETUNE_BACKEND", hide_env_values = true, help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Folder of plugins, in place of the default ones; may be repeated
    #[arg(long, value_name = "DIR", help_heading = heading::RUNNING)]
    #[serde(default, with = "any_path::list", skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PathBuf>,
    /// Steps between checkpoints; 0 for none but the last [default: 100]
    #[arg(long, value_name = "N", help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_every: Option<u64>,
    /// Steps between evaluations of the held-out data; 0 for none on the way [default: 0]
    #[arg(long, value_name = "N", help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Memory left to others, such as 4GiB [default: a quarter, up to 8 GB, where the device shares the machine's]
    #[arg(long, value_name = "SIZE", help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Size>,
    /// Before training, check the back end's numbers against the reference interpreter on a small training step
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "true|false",
        default_missing_value = "true", help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// If the back end fails, or the memory is too small, end with exit code 3 and do not go on another way
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "true|false",
        default_missing_value = "true", help_heading = heading::RUNNING)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl RunConfig {
    /// Where the result will be: `adapter`, or `model`, in the run folder.
    pub fn result(&self) -> PathBuf {
        self.out.join(match self.method {
            Method::Lora => "adapter",
            Method::Full => "model",
        })
    }
}

/// How long a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many steps.
    Steps(u64),
    /// So many times through the data.
    Epochs(u64),
}

/// A run, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// A Hugging Face folder or a `config.json`.
    pub model: PathBuf,
    /// Training data.
    pub data: PathBuf,
    /// Held-out data.
    pub valid: Option<PathBuf>,
    /// A chat template in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// The run folder.
    pub out: PathBuf,
    /// What is trained.
    pub method: Method,
    /// LoRA rank, if it was said.
    pub rank: Option<usize>,
    /// LoRA alpha, if it was said.
    pub alpha: Option<f64>,
    /// Adapter targets, if they were said.
    pub targets: Option<String>,
    /// Dropout on the adapters' input, if it was said.
    pub dropout: Option<f64>,
    /// A PEFT adapter to start from.
    pub adapter: Option<PathBuf>,
    /// Examples in a step.
    pub batch: usize,
    /// Examples computed at once, at most `batch`.
    pub micro_batch: usize,
    /// Positions of an example.
    pub seq_len: usize,
    /// How long it goes on.
    pub length: Length,
    /// The learning rate's largest value.
    pub lr: f64,
    /// How it goes on after the warmup.
    pub schedule: ScheduleKind,
    /// Steps in which it rises.
    pub warmup: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Largest global norm of the gradient; 0 for no limit.
    pub clip: f64,
    /// Seed of order, dropout and new tensors.
    pub seed: u64,
    /// Whether the examples are shuffled.
    pub shuffle: bool,
    /// Precision asked for.
    pub precision: PrecisionChoice,
    /// Steps between checkpoints, 0 for none but the last.
    pub save_every: u64,
    /// Steps between evaluations, 0 for none on the way.
    pub eval_every: u64,
    /// Bytes of memory that are left to others, if it was said.
    pub reserve: Option<u64>,
    /// Whether the back end's numbers are checked before training.
    pub verify: bool,
    /// Whether nothing may be done otherwise than asked.
    pub strict: bool,
}

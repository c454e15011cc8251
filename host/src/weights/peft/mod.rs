//! LoRA adapters in PEFT's format: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! For a linear layer of weight W [out, in], the adapter has A [rank, in] and B [out, rank], and the layer
//! computes `x W' + scale * (x A') B'`, where `scale` is alpha / rank, or alpha / sqrt(rank) with rsLoRA.
//! The shapes are the same for GPT-2's Conv1D, whose weight is stored as [in, out]; PEFT marks that with
//! `fan_in_fan_out`.
//!
//! What PEFT knows and this program does not (DoRA, trained biases, whole modules saved, ...) is refused by
//! name: an adapter that is read is read completely.

mod config;
mod read;
mod target;
mod write;

pub use config::PeftConfig;
pub use read::{LoraPair, PeftAdapter};
pub use target::{ModulePattern, TargetSpec};
pub use write::{AdapterWriter, LoraShape, save_adapter};

const TENSOR_PREFIX: &str = "base_model.model.";

#[cfg(test)]
mod tests;

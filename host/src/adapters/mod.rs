//! Adapters: small trained tensors beside frozen weights.

mod lora;

pub use lora::{Lora, LoraModule, targets_from_text};

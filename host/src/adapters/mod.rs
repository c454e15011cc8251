//! Adapters: small trained tensors beside frozen weights.

mod lora;
mod packing;

pub use lora::{Lora, LoraModule, targets_from_text};
pub use packing::{Gathering, Pack, Packing, Place, unpack};

//! The `finetune` host.

pub mod weights;

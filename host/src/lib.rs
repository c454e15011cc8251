//! The `finetune` host.

pub mod data;

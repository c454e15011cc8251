//! The `finetune` host.

pub mod autodiff;
pub mod optim;

//! The `finetune` host: loads compute back ends as plugins and routes one training loop through the best.

pub mod adapters;
pub mod cli;
pub mod data;
pub mod models;
pub mod precision;
pub mod train;
pub mod weights;

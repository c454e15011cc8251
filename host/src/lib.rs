//! The `finetune` host: loads compute back ends as plugins and routes one training loop through the best.

pub mod adapters;
mod allowance;
mod any_path;
pub mod autodiff;
pub mod calibrate;
pub mod cli;
pub mod data;
pub mod generate;
pub mod models;
#[cfg(test)]
mod op_goldens;
pub mod optim;
pub mod plugins;
pub mod precision;
pub mod train;
pub mod transform;
pub mod weights;

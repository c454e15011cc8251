//! The training loop and what belongs to it. Knows no back end by name.
//!
//! A `Source` says where tensors come from, a `Session` holds them on a device and runs programs over them,
//! `demand` foresees what that asks of a device, `begin` opens it all, `run` goes through the steps, `checkpoint` and `folder` keep what must not be lost.

mod begin;
mod checkpoint;
pub mod config;
mod demand;
mod error;
mod eval;
mod event;
pub mod export;
mod folder;
pub(crate) mod plan;
mod programs;
mod run;
pub(crate) mod session;
pub(crate) mod source;
mod steps;
mod stop;

pub use config::{ConfigError, Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings};
pub use demand::Demand;
pub use error::TrainError;
pub use eval::{EvalRequest, EvalSummary, evaluate};
pub use event::{Event, Observer};
pub use folder::RunFolder;
pub use run::{Summary, TrainRequest, train};
pub use session::Backend;
pub use stop::StopFlag;

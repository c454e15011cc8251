//! The training loop and what belongs to it. Knows no back end by name.
//!
//! A `Source` says where tensors come from, a `Session` holds them on a device and runs programs over them,
//! `demand` foresees what that asks of a device, `begin` opens it all, `run` goes through the steps, `checkpoint` and
//! `folder` keep what must not be lost. `supervise` has all of it done by another process, which may die.

mod backend;
mod begin;
mod checkpoint;
pub mod config;
mod demand;
mod error;
mod eval;
mod event;
pub mod export;
mod folder;
#[cfg_attr(not(unix), allow(dead_code, reason = "the supervisor alone watches it"))]
mod memory;
mod oversight;
pub(crate) mod plan;
mod programs;
mod purpose;
mod run;
pub(crate) mod session;
mod snapshot;
pub(crate) mod source;
mod steps;
mod stop;
#[cfg(unix)]
pub mod supervise;
mod verify;

pub use backend::Backend;
pub use config::{ConfigError, Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings, Size};
pub use demand::Demand;
pub use error::TrainError;
pub use eval::{EvalRequest, EvalSummary, evaluate};
pub use event::{Cause, Event, Observer};
pub use folder::RunFolder;
pub use run::{Summary, TrainRequest, train};
pub use stop::StopFlag;

//! The training loop and what belongs to it. Knows no back end by name.
//!
//! A `Source` says where tensors come from, a `Session` holds them on a device and runs programs over them,
//! `demand` foresees what that asks of a device, `begin` opens it all, `run` goes through the steps, `checkpoint` and
//! `folder` keep what must not be lost. `supervise` has all of it done by another process, which may die.

mod begin;
mod checkpoint;
pub mod config;
mod demand;
mod error;
mod eval;
mod event;
pub mod export;
mod folder;
mod memory;
mod oversight;
pub(crate) mod plan;
mod programs;
mod run;
pub(crate) mod session;
mod snapshot;
pub(crate) mod source;
mod steps;
mod stop;
#[cfg(unix)]
pub mod supervise;
mod verify;

pub use config::{ConfigError, Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings, Size};
pub use demand::Demand;
pub use error::TrainError;
pub use eval::{EvalRequest, EvalSummary, evaluate};
pub use event::{Cause, Event, Observer};
pub use folder::RunFolder;
pub use memory::default_reserve;
pub use oversight::{Oversight, Sign};
pub use run::{Summary, TrainRequest, train};
pub use session::Backend;
pub use stop::StopFlag;

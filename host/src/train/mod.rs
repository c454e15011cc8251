//! The training loop and what belongs to it. Knows no back end by name.

mod config;
mod event;

pub use config::{Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings};
pub use event::{Event, Observer};

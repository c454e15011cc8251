//! The training loop and what belongs to it. Knows no back end by name.

pub mod config;
mod event;
mod stop;

pub use config::{ConfigError, Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings};
pub use event::{Event, Observer};
pub use stop::StopFlag;

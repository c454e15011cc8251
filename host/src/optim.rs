//! Optimization: AdamW and gradient clipping as programs, learning rate schedules as functions.
//!
//! A training step is runs of *accumulate* programs, one for each micro-batch, and one run of the *apply*
//! program, all over the same state. [`accumulate`] ends an accumulate program; [`apply_program`] is the
//! whole apply program.

mod adamw;
mod schedule;

pub use adamw::{AdamW, Trainable, accumulate, apply_program, input, output, state};
pub use schedule::{Schedule, ScheduleKind};

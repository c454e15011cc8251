//! Training by a process of its own, under one that watches.
//!
//! The supervisor ([`supervise`]) loads no plugin. It starts the program again as a worker, tells it what to do over a
//! socket ([`message`]), and hears of every event, of what is to be shown, and of signs of life. When the worker dies,
//! hangs or says that its back end failed, `policy` decides how the run goes on, and another worker takes it up from
//! the state that was kept (`snapshot`). [`serve()`] is the worker's side.

mod go_on;
mod listen;
pub mod message;
mod policy;
mod process;
mod serve;
mod supervisor;
mod watchdog;

pub use serve::{Channel, serve};
pub use supervisor::{Ended, Job, SuperviseError, supervise};
pub use watchdog::Patience;

/// The hidden subcommand by which a worker is started.
pub const SUBCOMMAND: &str = "train-as-worker";

//! What binds a run to the process that watches over it: signs of life one way, what was and what is to be kept the
//! other. A run without a watcher has the default, which does nothing.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::event::Event;

/// A sign of life: what a run is at from here on, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// It opens and loads what it needs.
    Loading,
    /// A program is compiled, or runs for the first time, which may compile more.
    Compiling,
    /// It takes steps, or evaluates.
    Stepping,
    /// It writes a checkpoint or a snapshot.
    Saving,
    /// The trained state after that step is in the snapshots.
    Kept(u64),
    /// What had happened to earlier processes is in the run's record.
    Recorded,
}

/// Who hears of a run's signs of life.
#[derive(Clone, Default)]
pub struct Pulse(Option<Arc<dyn Fn(Sign) + Send + Sync>>);

impl Pulse {
    /// Tells `hear`.
    pub fn new(hear: impl Fn(Sign) + Send + Sync + 'static) -> Pulse {
        Pulse(Some(Arc::new(hear)))
    }

    /// Gives a sign.
    pub fn give(&self, sign: Sign) {
        if let Some(hear) = &self.0 {
            hear(sign);
        }
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pulse")
    }
}

/// Events of the watcher's that are to stand in the run's record.
#[derive(Clone, Debug, Default)]
pub struct Records(Arc<Mutex<Vec<Event>>>);

impl Records {
    /// Adds one.
    pub fn add(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Those that were added since.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the watching process gives a run.
#[derive(Debug, Default)]
pub struct Oversight {
    /// Whether it takes up what a process before it began.
    pub again: bool,
    /// What happened to the processes before, where the run's record does not have it yet.
    pub history: Vec<Event>,
    /// Where the trained state is kept, and may be from before; see [`super::snapshot`].
    pub snapshots: Option<File>,
    /// What the watcher wants recorded.
    pub records: Records,
    /// Who hears that the run is alive.
    pub pulse: Pulse,
}

//! What supervisor and worker say to each other: one JSON object a line.

use serde::{Deserialize, Serialize};

use crate::any_path::AnyPath;
use crate::plugins::Choice;
use crate::precision::Precision;

use super::super::config::Settings;
use super::super::event::{Cause, Event};
use super::super::oversight::Sign;

/// What a worker is started for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// What was said, with paths as they were said.
    pub given: Settings,
    /// The same as it is kept in the run folder.
    pub kept: Settings,
    /// The run folder.
    pub out: AnyPath,
    /// Whether the run was there before the supervisor.
    pub resume: bool,
    /// Whether it takes up what a worker before it began.
    pub again: bool,
    /// The device.
    pub choice: Choice,
    /// What `auto` came to with the worker before: it does not change on the way.
    pub precision: Option<Precision>,
    /// Examples computed at once.
    pub micro_batch: usize,
    /// What happened to the workers before, where the run's record does not have it yet.
    pub history: Vec<Event>,
}

/// What the supervisor says afterwards.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// End after this step, and save.
    Stop,
    /// Put this into the run's record.
    Record(Event),
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// Text for a person: its log.
    Text(String),
    /// Something happened in the run.
    Event {
        /// What.
        event: Event,
        /// The path in it, which need not be Unicode.
        path: Option<AnyPath>,
    },
    /// Something long has come so far.
    Progress {
        /// What.
        what: String,
        /// So many units.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// It is alive.
    Sign(Sign),
    /// It has done all there was to do.
    Done {
        /// Whether it was asked to end.
        stopped: bool,
    },
    /// It cannot go on.
    Failed(Failure),
}

/// Why a worker cannot go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What is wrong with the back end; none if it is not to blame, so that no other would do better.
    pub cause: Option<Cause>,
    /// A sentence.
    pub message: String,
}

//! The supervisor: it has workers train until the run is at its end or nothing is left to try.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::any_path::AnyPath;
use crate::plugins::Choice;
use crate::plugins::process::wait_if_ending;
use crate::precision::Precision;

use super::super::config::{RunConfig, Settings};
use super::super::event::{Event, Observer};
use super::super::folder::RunFolder;
use super::super::memory::{self, Watch};
use super::super::oversight::Sign;
use super::super::stop::StopFlag;
use super::message::{Failure, Task};
use super::policy::Standing;
use super::process::{Worker, was_killed};
use super::watchdog::{Patience, Watchdog};

/// What is to be done.
pub struct Job<'a> {
    /// The run.
    pub config: &'a RunConfig,
    /// What was said, with paths as they were said.
    pub given: Settings,
    /// The same as it is kept in the run folder.
    pub kept: Settings,
    /// Whether it goes on with the run in the folder.
    pub resume: bool,
    /// The devices that may be used, best first.
    pub choices: Vec<Choice>,
    /// How long a worker may be silent.
    pub patience: Patience,
    /// The program that is started as a worker.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Whether it was asked to stop before its end.
    pub stopped: bool,
    /// What it made, if it came to its end.
    pub result: Option<PathBuf>,
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// It cannot begin or go on, whatever the back end.
    #[error("{0}")]
    Run(String),
    /// The back end failed, and nothing else may be tried.
    #[error("{0}")]
    Strict(String),
    /// No process could be started.
    #[error("the process that trains cannot be started: {0}")]
    Start(#[from] std::io::Error),
}

/// Trains by workers. `show` gets what they write for people besides events.
///
/// # Errors
/// The run cannot begin or go on.
pub fn supervise(
    job: &Job<'_>,
    stop: &StopFlag,
    observer: &mut dyn Observer,
    show: impl Fn(&str) + Clone + Send + 'static,
) -> Result<Ended, SuperviseError> {
    let folder = Place::of(&job.config.out);
    let mut supervisor = Supervisor {
        standing: Standing::new(job.choices.len(), job.config.micro_batch),
        job,
        snapshots: folder.snapshots(),
        observer,
        history: Vec::new(),
        recorded: 0,
        precision: None,
        kept: 0,
        step: 0,
        began: 0,
        watch: Watch::new(job.config.reserve),
    };
    let ended = supervisor.run(stop, &show);
    supervisor.record_rest();
    ended
}

/// The run folder, for what is made in it before it is a run.
struct Place<'a> {
    path: &'a Path,
    made: bool,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Place<'a> {
        let made = !path.exists() && fs::create_dir_all(path).is_ok();
        Place { path, made }
    }

    /// A file without a name; none where there can be none, which costs some steps if a worker dies.
    fn snapshots(&self) -> Option<File> {
        tempfile::tempfile_in(self.path)
            .inspect_err(|error| tracing::info!("the trained state is kept in checkpoints alone: {error}"))
            .ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.made {
            // It stays if there is something in it.
            let _ = fs::remove_dir(self.path);
        }
    }
}

pub(super) struct Supervisor<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) standing: Standing,
    pub(super) snapshots: Option<File>,
    pub(super) observer: &'a mut dyn Observer,
    /// Events of this process's own, and how many of them are in the run's record.
    pub(super) history: Vec<Event>,
    pub(super) recorded: usize,
    pub(super) precision: Option<Precision>,
    /// The last step whose state is kept somewhere.
    pub(super) kept: u64,
    /// The last step taken.
    pub(super) step: u64,
    /// The step after which the worker began.
    pub(super) began: u64,
    pub(super) watch: Watch,
}

/// How a worker's time ended.
pub(super) enum End {
    Done {
        stopped: bool,
    },
    Failed(Failure),
    /// It said no more; whether the system had ended others for lack of memory.
    Silent {
        status: Option<ExitStatus>,
        memory: bool,
    },
    Garbage,
    Hung(Duration),
}

impl Supervisor<'_> {
    fn run(
        &mut self,
        stop: &StopFlag,
        show: &(impl Fn(&str) + Clone + Send + 'static),
    ) -> Result<Ended, SuperviseError> {
        for attempt in 0.. {
            let mut dog = Watchdog::new(self.job.patience);
            let end = self.attempt(attempt > 0, stop, &mut dog, show)?;
            let failure = match end {
                End::Done { stopped } => {
                    let result = self.job.config.result();
                    return Ok(Ended { stopped, result: (!stopped).then_some(result) });
                }
                End::Failed(Failure { cause: None, message }) => return Err(SuperviseError::Run(message)),
                other => self.told(other, dog.at()),
            };
            let (cause, message) = failure;
            tracing::info!("a worker has ended: {cause:?}: {message}");
            self.go_on(cause, &message, dog.at() == Sign::Loading)?;
        }
        unreachable!("attempts are counted without end")
    }

    /// One worker, from its start to its end.
    fn attempt(
        &mut self,
        again: bool,
        stop: &StopFlag,
        dog: &mut Watchdog,
        show: &(impl Fn(&str) + Clone + Send + 'static),
    ) -> Result<End, SuperviseError> {
        if !RunFolder::is_run(&self.job.config.out) {
            // The worker begins the record anew.
            self.recorded = 0;
        }
        let task = Task {
            given: self.job.given.clone(),
            kept: self.job.kept.clone(),
            out: AnyPath::from(self.job.config.out.as_path()),
            resume: self.job.resume,
            again,
            choice: self.choice().clone(),
            precision: self.precision,
            micro_batch: self.standing.micro_batch,
            history: self.history[self.recorded..].to_vec(),
        };
        let kills = memory::kills();
        let job = self.job;
        let printed = show.clone();
        let started = Worker::start(&job.program, &job.arguments, self.snapshots.as_ref(), &task, printed);
        let mut worker = started?;
        tracing::info!("{} trains in process {}", self.name(self.standing.at), worker.id());
        self.watch.begin(0);
        let end = self.listen(&mut worker, stop, dog, show);
        wait_if_ending();
        Ok(match end {
            End::Done { .. } | End::Failed(_) | End::Garbage | End::Hung(_) => {
                worker.finish();
                end
            }
            End::Silent { .. } => {
                let status = worker.end();
                let memory = was_killed(status) && (memory::kills() > kills || self.watch.is_low());
                End::Silent { status, memory }
            }
        })
    }

    fn choice(&self) -> &Choice {
        &self.job.choices[self.standing.at]
    }

    /// A choice, as `NAME:DEVICE`.
    pub(super) fn name(&self, at: usize) -> String {
        // After the last choice there is none.
        let choice = &self.job.choices[at.min(self.job.choices.len() - 1)];
        format!("{}:{}", choice.manifest.name, choice.device.index)
    }
}

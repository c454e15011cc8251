//! The supervisor: it has workers train until the run is at its end or nothing is left to try.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use finetune_plugin_api::program::DType;

use crate::plugins::Choice;
use crate::precision::Precision;

use super::super::config::{RunConfig, Settings};
use super::super::event::{Cause, Event, Observer};
use super::super::folder::RunFolder;
use super::super::memory::{self, Gauge, Watch};
use super::super::oversight::Sign;
use super::super::stop::StopFlag;
use super::message::{AnyPath, Command, Failure, Message, Task};
use super::policy::{Standing, Way};
use super::process::{Heard, Worker, ending, was_killed};
use super::watchdog::{Patience, Watchdog};

/// How often the supervisor looks around while it hears nothing.
const TICK: Duration = Duration::from_millis(100);
/// How often the memory is looked at.
const MEMORY: Duration = Duration::from_secs(1);
/// Steps after which a process holds what it needs.
const STEADY: u64 = 3;
/// Characters of a back end's own words in what is told of its failure.
const LONGEST: usize = 600;

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

struct Supervisor<'a> {
    job: &'a Job<'a>,
    standing: Standing,
    snapshots: Option<File>,
    observer: &'a mut dyn Observer,
    /// Events of this process's own, and how many of them are in the run's record.
    history: Vec<Event>,
    recorded: usize,
    precision: Option<Precision>,
    /// The last step whose state is kept somewhere.
    kept: u64,
    /// The last step taken.
    step: u64,
    /// The step after which the worker began.
    began: u64,
    watch: Watch,
}

/// How a worker's time ended.
enum End {
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
            tracing::warn!(target: "finetune_host::train::supervise", "a worker has ended: {cause:?}: {message}");
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
        self.watch.forget_worker();
        let end = self.listen(&mut worker, stop, dog, show);
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

    fn listen(
        &mut self,
        worker: &mut Worker,
        stop: &StopFlag,
        dog: &mut Watchdog,
        show: &impl Fn(&str),
    ) -> End {
        let mut asked = false;
        let mut gauge = Gauge::new();
        let mut looked = Instant::now();
        loop {
            if stop.is_set() && !std::mem::replace(&mut asked, true) {
                worker.tell(&Command::Stop);
            }
            let before = Instant::now();
            match worker.hear(TICK) {
                None => dog.silence(before.elapsed(), TICK),
                Some(Heard::Closed) => return End::Silent { status: None, memory: false },
                Some(Heard::Garbage) => return End::Garbage,
                Some(Heard::Message(message)) => match *message {
                    Message::Done { stopped } => return End::Done { stopped },
                    Message::Failed(failure) => return End::Failed(failure),
                    Message::Text(text) => show(&text),
                    Message::Sign(sign) => {
                        dog.sign(sign);
                        self.sign(sign);
                    }
                    Message::Progress { what, done, total } => {
                        dog.heard();
                        self.observer.progress(&what, done, total);
                    }
                    Message::Event { event, path } => self.event(event, path, dog),
                },
            }
            if let Some(silent) = dog.gave_up() {
                return End::Hung(silent);
            }
            if looked.elapsed() >= MEMORY {
                looked = Instant::now();
                self.look_at_memory(worker, gauge.as_mut(), dog);
            }
        }
    }

    fn sign(&mut self, sign: Sign) {
        match sign {
            Sign::Kept(step) => self.kept = step,
            Sign::Recorded => self.recorded = self.history.len(),
            _ => {}
        }
    }

    fn event(&mut self, mut event: Event, path: Option<AnyPath>, dog: &mut Watchdog) {
        dog.heard();
        match &mut event {
            Event::Start { precision, resumed_from, .. } => {
                self.precision =
                    [Precision::F32, Precision::Bf16].into_iter().find(|p| p.to_string() == *precision);
                (self.kept, self.step, self.began) = (*resumed_from, *resumed_from, *resumed_from);
            }
            Event::Step { step, step_s, .. } => {
                self.step = *step;
                dog.step(Duration::try_from_secs_f64(*step_s).unwrap_or_default());
            }
            Event::Saved { step, path: shown } => {
                self.kept = *step;
                if let Some(path) = path {
                    *shown = path.into();
                }
            }
            _ => {}
        }
        self.observer.event(&event);
    }

    fn look_at_memory(&mut self, worker: &mut Worker, gauge: Option<&mut Gauge>, dog: &Watchdog) {
        let Some(gauge) = gauge else { return };
        let sample = gauge.sample(worker.id());
        let steady = dog.at() == Sign::Stepping && self.step >= self.began + STEADY;
        if let Some(event) = self.watch.look(sample, steady) {
            tracing::info!("{sample:?}");
            self.observer.event(&event);
            worker.tell(&Command::Record(event));
        }
    }

    /// What happened, and why, as the beginning of a sentence.
    fn told(&self, end: End, at: Sign) -> (Cause, String) {
        let name = self.name(self.standing.at);
        let when = match at {
            Sign::Loading => "before its first step".to_owned(),
            Sign::Compiling => format!("in step {}, with a program that is new to it", self.step + 1),
            Sign::Saving => format!("while the state after step {} was saved", self.step),
            _ => format!("in step {}", self.step + 1),
        };
        match end {
            End::Failed(failure) => {
                let cause = failure.cause.unwrap_or(Cause::Error);
                (cause, format!("{name} failed {when}: {}", short(&failure.message)))
            }
            End::Hung(silent) => {
                (Cause::Hang, format!("{name} gave no sign of life for {} s {when}", silent.as_secs()))
            }
            End::Silent { status, memory: true } => (
                Cause::OutOfMemory,
                format!("{name} {} {when}, and the machine was out of memory", ending(status)),
            ),
            End::Silent { status, .. } => (Cause::Crash, format!("{name} {} {when}", ending(status))),
            End::Garbage | End::Done { .. } => {
                (Cause::Crash, format!("{name} wrote noise into the program's own channel {when}"))
            }
        }
    }

    /// Decides how it goes on and tells of it.
    fn go_on(&mut self, cause: Cause, message: &str, loading: bool) -> Result<(), SuperviseError> {
        let failed = self.name(self.standing.at);
        if self.job.config.strict {
            let message = format!("{message}; --strict keeps from going on another way");
            self.tell(cause, &failed, None, &message, false);
            return Err(SuperviseError::Strict(message));
        }
        let mut way = self.standing.decide(cause, self.step, loading);
        let mut passed = String::new();
        while let Way::Other(at) = way
            && let Some(lacks) = self.lacks(at)
        {
            passed += &format!("; {lacks}");
            way = self.standing.next();
        }
        let after = match self.kept {
            0 => "from the beginning".to_owned(),
            step => format!("after step {step}"),
        };
        let next = match way {
            Way::Again => format!("going on {after} with the same back end once more"),
            Way::Smaller(micro) => {
                format!("going on {after} with {micro} examples at once, which gives the same steps")
            }
            Way::Other(at) => {
                format!("going on {after} with {} ({})", self.name(at), self.job.choices[at].device.name)
            }
            Way::End => "no other back end is left to go on with".into(),
        };
        let message = format!("{message}{passed}; {next}");
        let on = (way != Way::End).then(|| self.name(self.standing.at));
        self.tell(cause, &failed, on, &message, way != Way::End);
        match way {
            Way::End => Err(SuperviseError::Run(message)),
            _ => Ok(()),
        }
    }

    /// Tells of a failure. The last one is the error that the program ends with, and is not said twice to a person.
    fn tell(&mut self, cause: Cause, backend: &str, next: Option<String>, message: &str, goes_on: bool) {
        let event = Event::Fallback {
            step: self.kept,
            cause,
            backend: backend.into(),
            next,
            micro_batch: self.standing.micro_batch,
            message: message.into(),
        };
        if goes_on {
            self.observer.event(&event);
        } else {
            self.observer.last(&event);
        }
        self.history.push(event);
    }

    /// Why a choice cannot go on with the run, if it cannot.
    fn lacks(&self, at: usize) -> Option<String> {
        let dtype = match self.precision? {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        };
        let has = self.job.choices[at].device.dtypes.iter().any(|name| name == dtype.name());
        (!has).then(|| format!("{} has no {}, in which the run was begun", self.name(at), dtype.name()))
    }

    fn choice(&self) -> &Choice {
        &self.job.choices[self.standing.at]
    }

    fn name(&self, at: usize) -> String {
        // After the last choice there is none.
        let choice = &self.job.choices[at.min(self.job.choices.len() - 1)];
        format!("{}:{}", choice.manifest.name, choice.device.index)
    }

    /// Puts into the run's record what no worker did, if there is a run.
    fn record_rest(&mut self) {
        let rest = &self.history[self.recorded..];
        if rest.is_empty() || !RunFolder::is_run(&self.job.config.out) {
            return;
        }
        let recorded = RunFolder::resume(&self.job.config.out, &self.job.kept)
            .and_then(|mut folder| rest.iter().try_for_each(|event| folder.record(event)));
        if let Err(error) = recorded {
            tracing::warn!("what happened at the end is not in the run's record: {error}");
        }
    }
}

/// A back end's words, shortened.
fn short(message: &str) -> String {
    match message.char_indices().nth(LONGEST) {
        None => message.into(),
        Some((at, _)) => format!("{}...", message[..at].trim_end_matches('.')),
    }
}

//! What the supervisor says and does when a worker's time has ended before the run's.

use finetune_plugin_api::program::DType;

use crate::precision::Precision;

use super::super::event::{Cause, Event};
use super::super::folder::RunFolder;
use super::super::oversight::Sign;
use super::policy::Way;
use super::process::ending;
use super::supervisor::{End, SuperviseError, Supervisor};

/// Characters of a back end's own words in what is told of its failure.
const LONGEST: usize = 600;

impl Supervisor<'_> {
    /// What happened, and why, as the beginning of a sentence.
    pub(super) fn told(&self, end: End, at: Sign) -> (Cause, String) {
        let name = self.name(self.standing.at);
        let when = match at {
            Sign::Loading => "before its first step".to_owned(),
            Sign::Compiling => format!("in step {}, with a program that is new to it", self.step + 1),
            Sign::Saving => format!("while the state after step {} was saved", self.step),
            _ => format!("in step {}", self.step + 1),
        };
        match end {
            End::Failed(failure) => {
                let (cause, words) = (failure.cause.unwrap_or(Cause::Error), short(&failure.message));
                let message = match cause {
                    // These say for themselves what they are of.
                    Cause::WrongNumbers | Cause::DoesNotFit => words,
                    _ => format!("{name} failed {when}: {words}"),
                };
                (cause, message)
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
    pub(super) fn go_on(&mut self, cause: Cause, message: &str, loading: bool) -> Result<(), SuperviseError> {
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

    /// Puts into the run's record what no worker did, if there is a run.
    pub(super) fn record_rest(&mut self) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::super::process::{ending, was_killed};

    /// Only SIGKILL may be the system's for lack of memory; a crash is a crash however little memory there is.
    #[test]
    fn the_end_of_a_process_is_told_as_what_it_was() {
        let status = |raw| Some(ExitStatus::from_raw(raw));
        assert_eq!(ending(status(9)), "was killed (SIGKILL)");
        assert_eq!(ending(status(11)), "crashed (SIGSEGV)");
        assert_eq!(ending(status(3 << 8)), "ended its process with exit code 3");
        assert_eq!(
            ending(status(25)),
            "crashed (SIGXFSZ: a file grew past the limit of its size, ulimit -f)",
            "the numbers of Linux and of Apple's systems are the same here"
        );
        assert_eq!(ending(status(14)), "crashed (SIGALRM)");
        assert_eq!(ending(None), "closed the connection to the program");
        assert!(
            was_killed(status(9))
                && !was_killed(status(11))
                && !was_killed(status(9 << 8))
                && !was_killed(None)
        );
    }
}

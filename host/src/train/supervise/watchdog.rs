//! Whether a worker still lives.

use std::time::Duration;

use super::super::oversight::Sign;

/// A step may take so many times as long as the longest of late.
const MULTIPLE: u32 = 20;
/// How much of the longest step is forgotten with each that is shorter: lengths differ from step to step.
const FORGOTTEN: f64 = 0.02;

/// How long nothing need be heard of a worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// While it takes steps, at least.
    pub step: Duration,
    /// While it loads, compiles, runs a program for the first time, or saves.
    pub start: Duration,
}

/// Counts how long nothing was heard.
#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Patience,
    /// What the worker said that it is at.
    at: Sign,
    /// The longest step of late.
    longest: Option<Duration>,
    silent: Duration,
}

impl Watchdog {
    pub(super) fn new(patience: Patience) -> Watchdog {
        Watchdog { patience, at: Sign::Loading, longest: None, silent: Duration::ZERO }
    }

    /// What the worker is at.
    pub(super) fn at(&self) -> Sign {
        self.at
    }

    /// It said what it is at.
    pub(super) fn sign(&mut self, sign: Sign) {
        self.silent = Duration::ZERO;
        if !matches!(sign, Sign::Kept(_) | Sign::Recorded) {
            self.at = sign;
        }
    }

    /// It has come further with something.
    pub(super) fn heard(&mut self) {
        self.silent = Duration::ZERO;
    }

    /// It has taken a step. One in which something was compiled is not a usual one.
    pub(super) fn step(&mut self, took: Duration) {
        self.heard();
        if self.at == Sign::Compiling {
            return;
        }
        let before = self.longest.unwrap_or_default().mul_f64(1.0 - FORGOTTEN);
        self.longest = Some(before.max(took));
    }

    /// Nothing was heard for so long. Time in which this process itself was stopped is not given to it whole.
    pub(super) fn silence(&mut self, time: Duration, tick: Duration) {
        self.silent += time.min(2 * tick);
    }

    /// For how long nothing was heard, if that is too long.
    pub(super) fn gave_up(&self) -> Option<Duration> {
        (self.silent > self.limit()).then_some(self.silent)
    }

    fn limit(&self) -> Duration {
        match (self.at, self.longest) {
            (Sign::Stepping, Some(longest)) => self.patience.step.max(longest.saturating_mul(MULTIPLE)),
            _ => self.patience.start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wait(dog: &mut Watchdog, time: u64) -> bool {
        (0..time).for_each(|_| dog.silence(seconds(1), seconds(1)));
        dog.gave_up().is_some()
    }

    #[test]
    fn a_step_has_a_multiple_of_the_usual_time_and_what_comes_first_has_longer() {
        let mut dog = Watchdog::new(Patience { step: seconds(60), start: seconds(3600) });
        assert!(!wait(&mut dog, 3600), "loading takes its time");
        dog.sign(Sign::Compiling);
        dog.step(seconds(500));
        dog.sign(Sign::Stepping);
        assert!(!wait(&mut dog, 3600), "there is no usual time before the first step");
        dog.step(seconds(1));
        assert!(!wait(&mut dog, 60));
        assert!(wait(&mut dog, 1), "a minute at least");
        dog.step(seconds(10));
        assert!(!wait(&mut dog, 200) && wait(&mut dog, 1), "twenty steps");
        dog.sign(Sign::Compiling);
        assert!(!wait(&mut dog, 3600), "a new length is compiled");
        assert!(wait(&mut dog, 1));
    }

    #[test]
    fn one_slow_step_is_forgotten_in_time() {
        let mut dog = Watchdog::new(Patience { step: seconds(1), start: seconds(3600) });
        dog.sign(Sign::Stepping);
        dog.step(seconds(100));
        (0..500).for_each(|_| dog.step(seconds(1)));
        assert!(wait(&mut dog, 21));
    }

    /// Ctrl-Z stops both processes; the time until they go on is not the worker's.
    #[test]
    fn a_pause_of_the_supervisor_itself_is_not_held_against_the_worker() {
        let mut dog = Watchdog::new(Patience { step: seconds(60), start: seconds(3600) });
        dog.sign(Sign::Stepping);
        dog.step(seconds(1));
        dog.silence(seconds(100_000), seconds(1));
        assert_eq!(dog.gave_up(), None);
    }
}

//! How a run goes on after a failure.

use super::super::event::Cause;

/// A back end that has taken so many steps since it was tried again has earned another try.
const EARNED: u64 = 100;

/// How it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On the same back end.
    Again,
    /// On the same back end, with so many examples at once.
    Smaller(usize),
    /// On the choice of that number.
    Other(usize),
    /// Not at all.
    End,
}

/// Where a run stands among its choices.
#[derive(Debug)]
pub(super) struct Standing {
    choices: usize,
    /// The choice that it is on.
    pub at: usize,
    asked: usize,
    /// Examples computed at once.
    pub micro_batch: usize,
    /// The step from which this choice was tried again.
    tried_again: Option<u64>,
}

impl Standing {
    pub(super) fn new(choices: usize, micro_batch: usize) -> Standing {
        Standing { choices, at: 0, asked: micro_batch, micro_batch, tried_again: None }
    }

    /// Decides after a failure. `step` is the last step taken, `loading` says that no program had been compiled.
    pub(super) fn decide(&mut self, cause: Cause, step: u64, loading: bool) -> Way {
        match cause {
            Cause::OutOfMemory if self.micro_batch > 1 && !loading => {
                self.micro_batch = self.micro_batch.div_ceil(2);
                Way::Smaller(self.micro_batch)
            }
            Cause::Crash | Cause::Hang | Cause::Error | Cause::DeviceLost if self.may_try_again(step) => {
                self.tried_again = Some(step);
                Way::Again
            }
            // These would be the same the second time.
            _ => self.next(),
        }
    }

    fn may_try_again(&self, step: u64) -> bool {
        self.tried_again.is_none_or(|before| step >= before.saturating_add(EARNED))
    }

    /// Goes to the next choice.
    pub(super) fn next(&mut self) -> Way {
        self.at += 1;
        self.micro_batch = self.asked;
        self.tried_again = None;
        if self.at < self.choices { Way::Other(self.at) } else { Way::End }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_tried_once_more_and_then_the_next_has_its_turn() {
        let mut standing = Standing::new(2, 8);
        assert_eq!(standing.decide(Cause::Crash, 5, false), Way::Again);
        assert_eq!(standing.decide(Cause::Hang, 5, false), Way::Other(1));
        assert_eq!(standing.decide(Cause::DeviceLost, 5, false), Way::Again);
        assert_eq!(standing.decide(Cause::Error, 5, false), Way::End);
    }

    /// A long run is not to end on a slow back end because of two accidents a day apart.
    #[test]
    fn many_good_steps_earn_another_try() {
        let mut standing = Standing::new(2, 8);
        assert_eq!(standing.decide(Cause::Crash, 5, false), Way::Again);
        assert_eq!(standing.decide(Cause::Crash, 105, false), Way::Again);
        assert_eq!(standing.decide(Cause::Crash, 204, false), Way::Other(1));
    }

    #[test]
    fn memory_that_runs_out_makes_the_micro_batch_smaller_first() {
        let mut standing = Standing::new(2, 5);
        assert_eq!(standing.decide(Cause::OutOfMemory, 1, false), Way::Smaller(3));
        assert_eq!(standing.decide(Cause::OutOfMemory, 1, false), Way::Smaller(2));
        assert_eq!(standing.decide(Cause::Crash, 1, false), Way::Again, "that is another matter");
        assert_eq!(standing.decide(Cause::OutOfMemory, 1, false), Way::Smaller(1));
        assert_eq!(standing.decide(Cause::OutOfMemory, 1, false), Way::Other(1));
        assert_eq!(standing.micro_batch, 5, "the other may have more memory");
        assert_eq!(standing.decide(Cause::OutOfMemory, 0, true), Way::End, "the weights alone are too much");
    }

    #[test]
    fn what_would_be_the_same_again_is_not_tried_again() {
        for cause in [Cause::WrongNumbers, Cause::Unsupported, Cause::DoesNotFit] {
            assert_eq!(Standing::new(2, 8).decide(cause, 0, false), Way::Other(1), "{cause:?}");
        }
    }
}

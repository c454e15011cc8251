//! The learning rate over the steps of a run.

use std::f64::consts::PI;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Falls in a straight line, to 0 after the last step.
    Linear,
    /// Falls along half a cosine wave, to 0 after the last step.
    Cosine,
}

/// A learning rate for every step. The same numbers as transformers' `get_constant_schedule_with_warmup`,
/// `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup`: step 1 runs at their step 0, so
/// with a warm-up its rate is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What comes after the warm-up.
    pub kind: ScheduleKind,
    /// The peak learning rate.
    pub peak: f64,
    /// The number of steps in which the rate rises from 0 to the peak.
    pub warmup: u64,
    /// The number of steps of the whole run, warm-up included. A constant schedule does not read it.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of optimizer step `step`, counted from 1.
    pub fn lr(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        if done < self.warmup {
            return self.peak * (done as f64 / self.warmup as f64);
        }
        let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let factor = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => self.steps.saturating_sub(done) as f64 / length,
            ScheduleKind::Cosine => 0.5 * (1.0 + (PI * ((done - self.warmup) as f64 / length)).cos()),
        };
        self.peak * factor.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup: u64, steps: u64, shown: u64) -> Vec<f64> {
        let schedule = Schedule { kind, peak: 10.0, warmup, steps };
        (1..=shown).map(|step| schedule.lr(step)).collect()
    }

    fn close(found: &[f64], want: &[f64]) {
        assert_eq!(found.len(), want.len());
        for (found, want) in found.iter().zip(want) {
            assert!((found - want).abs() < 1e-4, "{found} is not {want}");
        }
    }

    /// The lists that transformers' own tests of its schedulers hold: peak 10, 2 warm-up steps of 10.
    #[test]
    fn rates_are_those_of_transformers() {
        let constant = [0.0, 5.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0];
        close(&rates(ScheduleKind::Constant, 2, 10, 10), &constant);
        let linear = [0.0, 5.0, 10.0, 8.75, 7.5, 6.25, 5.0, 3.75, 2.5, 1.25];
        close(&rates(ScheduleKind::Linear, 2, 10, 10), &linear);
        let cosine = [0.0, 5.0, 10.0, 9.6194, 8.5355, 6.9134, 5.0, 3.0866, 1.4645, 0.3806];
        close(&rates(ScheduleKind::Cosine, 2, 10, 10), &cosine);
    }

    #[test]
    fn a_run_without_warmup_begins_at_the_peak() {
        for kind in [ScheduleKind::Constant, ScheduleKind::Linear, ScheduleKind::Cosine] {
            close(&rates(kind, 0, 4, 1), &[10.0]);
        }
    }

    /// A run may be resumed for longer than it was planned, or be all warm-up: the rate stays a number >= 0.
    #[test]
    fn steps_beyond_the_plan_have_a_rate() {
        close(&rates(ScheduleKind::Linear, 1, 2, 5), &[0.0, 10.0, 0.0, 0.0, 0.0]);
        close(&rates(ScheduleKind::Linear, 4, 2, 6), &[0.0, 2.5, 5.0, 7.5, 0.0, 0.0]);
        for kind in [ScheduleKind::Constant, ScheduleKind::Linear, ScheduleKind::Cosine] {
            for rate in rates(kind, 4, 2, 12).into_iter().chain(rates(kind, 0, 0, 3)) {
                assert!((0.0..=10.0).contains(&rate), "{kind:?}: {rate}");
            }
        }
    }
}

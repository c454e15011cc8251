//! How often a run is told of where no bar can be.

use std::time::Duration;

/// Between two lines, at least this long passes or a tenth of the run.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides which steps get a line.
#[derive(Default)]
pub struct Pace {
    last: Option<(Duration, u64)>,
}

impl Pace {
    /// Whether `done` of `total` units at the time `now` gets a line: the first and the last does, and others
    /// where ten seconds or a tenth of the whole have passed.
    pub fn due(&mut self, now: Duration, done: u64, total: Option<u64>) -> bool {
        let tenth = |n: u64| total.map_or(0, |total| n.saturating_mul(10) / total.max(1));
        let due = match self.last {
            None => true,
            Some((at, before)) => {
                now.saturating_sub(at) >= INTERVAL || tenth(done) > tenth(before) || total == Some(done)
            }
        };
        if due {
            self.last = Some((now, done));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(steps: u64, step: Duration, total: Option<u64>) -> Vec<u64> {
        let mut pace = Pace::default();
        (1..=steps).filter(|n| pace.due(step * *n as u32, *n, total)).collect()
    }

    #[test]
    fn a_log_has_few_lines_but_never_none() {
        let fast = Duration::from_millis(1);
        assert_eq!(lines(100, fast, Some(100)), [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(lines(3, fast, Some(3)), [1, 2, 3]);
        assert_eq!(lines(40, Duration::from_secs(1), Some(1_000_000)), [1, 11, 21, 31]);
        assert_eq!(lines(40, Duration::from_secs(1), None), [1, 11, 21, 31]);
        assert_eq!(lines(3, Duration::from_secs(60), Some(1_000_000)), [1, 2, 3]);
    }
}

//! What a bar or a line says of a run that is going on.

use std::time::Duration;

use console::measure_text_width;

use super::format;

/// Of this many steps the smoothed numbers are about.
const SMOOTHED: f64 = 20.0;
/// Columns below which a bar is too short to show anything.
const SHORTEST_BAR: usize = 10;

/// A mean in which older values count less, and the first few all alike.
#[derive(Default)]
struct Smoothed {
    mean: f64,
    count: f64,
}

impl Smoothed {
    fn add(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(SMOOTHED);
        self.mean += (value - self.mean) / self.count;
    }
}

/// One step, as it is told.
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The batch's loss.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Target tokens.
    pub tokens: u64,
    /// How long it took, in seconds.
    pub step_s: f64,
    /// Device memory, in bytes.
    pub memory_bytes: u64,
}

/// The state of a run, from its steps.
pub struct Status {
    /// Steps taken.
    pub step: u64,
    /// The last step; none if it is not known.
    pub steps: Option<u64>,
    last: f64,
    lr: f64,
    memory_bytes: u64,
    loss: Smoothed,
    tokens: Smoothed,
    step_s: Smoothed,
}

impl Status {
    /// A run that goes on after `step`.
    pub fn new(step: u64, steps: Option<u64>) -> Status {
        Status {
            step,
            steps,
            last: f64::NAN,
            lr: 0.0,
            memory_bytes: 0,
            loss: Smoothed::default(),
            tokens: Smoothed::default(),
            step_s: Smoothed::default(),
        }
    }

    /// Takes a step in.
    pub fn add(&mut self, step: &Step) {
        self.step = step.step;
        self.last = step.loss;
        self.lr = step.lr;
        self.memory_bytes = step.memory_bytes;
        self.loss.add(step.loss);
        self.tokens.add(step.tokens as f64);
        self.step_s.add(step.step_s);
    }

    /// The steps, `12/100`, in columns that stay the same.
    pub fn position(&self) -> String {
        match self.steps {
            Some(steps) => format!("{:>1$}/{steps}", self.step, steps.to_string().len()),
            None => self.step.to_string(),
        }
    }

    /// Columns of `columns` that are left for the text beside a bar.
    pub fn room(&self, columns: usize) -> usize {
        columns.saturating_sub(measure_text_width(&self.position()) + SHORTEST_BAR + 4)
    }

    /// As much as fits into `room` columns, what matters least left out first.
    pub fn text(&self, room: usize) -> String {
        // Each with how much it matters; they are shown in this order.
        let mut parts = vec![(6, format!("loss {}", format::loss(self.loss.mean)))];
        if self.loss.count > 1.0 {
            parts.push((1, format!("last {}", format::loss(self.last))));
        }
        parts.push((2, format!("lr {}", format::small(self.lr))));
        if self.step_s.mean > 0.0 {
            parts.push((4, format!("{} tokens/s", format::rate(self.tokens.mean / self.step_s.mean))));
        }
        parts.push((3, format::bytes(self.memory_bytes)));
        if let Some(left) = self.left() {
            parts.push((5, format!("{} left", format::clock(left))));
        }
        loop {
            let text = parts.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join("  ");
            if measure_text_width(&text) <= room {
                return text;
            }
            match parts.iter().enumerate().min_by_key(|(_, (matters, _))| *matters) {
                Some((least, _)) => _ = parts.remove(least),
                None => return String::new(),
            }
        }
    }

    /// The mean loss of the latest steps.
    pub fn mean_loss(&self) -> Option<f64> {
        (self.loss.count > 0.0).then_some(self.loss.mean)
    }

    fn left(&self) -> Option<Duration> {
        let steps = self.steps?.checked_sub(self.step).filter(|left| *left > 0)?;
        Duration::try_from_secs_f64(steps as f64 * self.step_s.mean).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let mut status = Status::new(0, Some(120));
        for (step, loss) in [(1, 3.0), (2, 2.0)] {
            status.add(&Step { step, loss, lr: 2e-4, tokens: 4000, step_s: 2.0, memory_bytes: 1 << 30 });
        }
        status
    }

    /// A narrow terminal shows less, never half of something and never more than fits.
    #[test]
    fn what_matters_least_is_left_out_first() {
        let status = status();
        for (room, text) in [
            (80, "loss 2.5000  last 2.0000  lr 2e-4  2.0 k tokens/s  1.0 GiB  3:56 left"),
            (60, "loss 2.5000  lr 2e-4  2.0 k tokens/s  1.0 GiB  3:56 left"),
            (50, "loss 2.5000  2.0 k tokens/s  1.0 GiB  3:56 left"),
            (40, "loss 2.5000  2.0 k tokens/s  3:56 left"),
            (30, "loss 2.5000  3:56 left"),
            (12, "loss 2.5000"),
            (5, ""),
        ] {
            assert_eq!(status.text(room), text);
        }
        assert_eq!(status.room(40), 40 - "  2/120".len() - SHORTEST_BAR - 4);
        assert_eq!(status.room(3), 0);
    }

    #[test]
    fn the_shown_loss_is_smoothed_over_the_latest_steps() {
        let mut status = Status::new(0, None);
        for step in 1..=500 {
            let loss = if step <= 300 { 10.0 } else { 1.0 };
            status.add(&Step { step, loss, lr: 0.0, tokens: 1, step_s: 0.0, memory_bytes: 0 });
        }
        assert!((status.loss.mean - 1.0).abs() < 1e-3, "{}", status.loss.mean);
        assert_eq!(status.position(), "500");
        assert!(!status.text(usize::MAX).contains("left"));
    }
}

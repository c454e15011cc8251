//! Where an axis has its ticks, and what they say.

/// The largest magnitude that is drawn; its inverse is the smallest on a logarithmic scale.
const FAR: f64 = 1e100;

/// A range of values on so many pixels.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// An axis that shows `low` to `high`, logarithmic only if both are positive.
    pub fn new((low, high): (f64, f64), log: bool) -> Axis {
        // Differences, ratios and margins of these are numbers, too.
        let (low, high) = (low.clamp(-FAR, FAR), high.clamp(-FAR, FAR));
        let log = log && low > 0.0;
        let low = if log { low.max(1.0 / FAR) } else { low };
        // A single value stands in the middle, and zero at the bottom.
        let (low, high) = match high > low {
            true => (low, high),
            false if low == 0.0 => (0.0, 1.0),
            false => (low - 0.05 * low.abs(), low + 0.05 * low.abs()),
        };
        // The smallest numbers that there are have no room between them.
        let high = if high > low { high } else { low + f64::MIN_POSITIVE };
        Axis { low, high, log }
    }

    /// The same with a margin at both ends.
    pub fn padded(self, part: f64) -> Axis {
        match self.log {
            true => {
                let factor = (self.high / self.low).powf(part);
                Axis { low: self.low / factor, high: self.high * factor, log: true }
            }
            false => {
                let margin = part * (self.high - self.low);
                // Zero is a better end than something below it.
                let low = if self.low >= 0.0 { (self.low - margin).max(0.0) } else { self.low - margin };
                Axis { low, high: self.high + margin, log: false }
            }
        }
    }

    /// Where a value lies, from 0 to 1 within the range.
    pub fn part(&self, value: f64) -> f64 {
        match self.log {
            true if value <= 0.0 => f64::NAN,
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// The lowest and the highest value.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// About `count` ticks: values and labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        if self.log {
            let ticks = self.decades();
            if ticks.len() >= 3 {
                return ticks;
            }
        }
        let step = nice((self.high - self.low) / count.max(1) as f64);
        if !step.is_normal() || step < self.high.abs().max(self.low.abs()) * 1e-12 {
            return Vec::new();
        }
        let first = (self.low / step - 1e-9).ceil();
        let ticks = (0..=2 * count).map(|i| (first + i as f64) * step);
        let ticks = ticks.filter(|value| self.part(*value).is_finite());
        ticks
            .take_while(|value| *value <= self.high + 1e-9 * step)
            .map(|value| (value, label(value, step)))
            .collect()
    }

    /// 1, 2 and 5 times powers of ten, or the powers alone if those would be many, or only some of them.
    fn decades(&self) -> Vec<(f64, String)> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let count = decades.clone().count();
        let within: &[f64] = if count > 4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = decades.step_by((count / 8).max(1));
        let all =
            decades.flat_map(|decade| within.iter().map(move |digit| (digit * 10f64.powi(decade), decade)));
        let shown = all.filter(|(value, _)| (self.low..=self.high).contains(value));
        shown.map(|(value, decade)| (value, label(value, 10f64.powi(decade)))).collect()
    }
}

/// 1, 2 or 5 times a power of ten, the nearest to `step` by ratio.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digit = match step / power {
        digit if digit < 2f64.sqrt() => 1.0,
        digit if digit < 10f64.sqrt() => 2.0,
        digit if digit < 50f64.sqrt() => 5.0,
        _ => 10.0,
    };
    digit * power
}

/// A tick's value with the digits that tell it from its neighbours.
fn label(value: f64, step: f64) -> String {
    let digits = -(step * (1.0 + 1e-9)).log10().floor() as i32;
    if value.abs() < step * 1e-6 {
        return "0".into();
    }
    let size = value.abs().log10().floor() as i32;
    if (-3..6).contains(&size) && digits <= 5 {
        return grouped(&format!("{value:.*}", digits.max(0) as usize));
    }
    let text = format!("{value:.*e}", (size + digits).clamp(0, 12) as usize);
    text.replace("-", "\u{2212}")
}

/// A space between thousands, and a minus that is as wide as a plus.
fn grouped(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("\u{2212}", rest));
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let mut out = sign.to_owned();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && whole.len() > 4 {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    if let Some(part) = part {
        out.push('.');
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(range: (f64, f64), log: bool, count: usize) -> Vec<String> {
        Axis::new(range, log).ticks(count).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels((0.0, 1000.0), false, 5), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(labels((2.13, 3.97), false, 4), ["2.5", "3.0", "3.5"]);
        assert_eq!(
            labels((0.0, 2e-4), false, 4),
            ["0", "5e\u{2212}5", "1.0e\u{2212}4", "1.5e\u{2212}4", "2.0e\u{2212}4"]
        );
        assert_eq!(labels((0.0, 50_000.0), false, 2), ["0", "20\u{2009}000", "40\u{2009}000"]);
        assert_eq!(labels((1.0, 100.0), true, 4), ["1", "2", "5", "10", "20", "50", "100"]);
        assert_eq!(labels((2.1, 2.9), true, 4), ["2.2", "2.4", "2.6", "2.8"]);
    }

    /// Constant, huge and tiny values, and zero on a scale that has none.
    #[test]
    fn every_range_has_an_axis() {
        let ranges = [
            (0.0, 0.0),
            (5.0, 5.0),
            (1e99, 1e99),
            (1e-300, 1e-300),
            (1e-300, 1e99),
            (-1.0, 2.0),
            (0.0, 1e-12),
        ];
        for range in ranges {
            for log in [false, true] {
                let axis = Axis::new(range, log).padded(0.05);
                assert!(axis.ticks(5).len() <= 40, "{range:?}, {log}: {axis:?}, {}", axis.ticks(5).len());
                assert!(
                    range.1 == 1e-300 || (0.0..=1.0).contains(&axis.part(range.1)),
                    "{range:?}, {log}: {axis:?}"
                );
            }
        }
    }
}

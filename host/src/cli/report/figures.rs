//! The charts of runs, on a page or alone.

use std::fmt::Write;

use super::super::display::format;
use super::axis::Axis;
use super::chart::{Chart, Line, Mark};
use super::html::escape;
use super::record::{Run, Step};
use super::series::{range, sampled, smoothed};

/// Colours that the style sheet has.
const COLOURS: usize = 6;
/// Runs with fewer steps are drawn as they are.
const SMOOTHED_FROM: usize = 40;

/// A column of the metrics.
pub struct Measure {
    /// The chart's heading.
    pub title: &'static str,
    /// Of the values as they are drawn.
    unit: Unit,
    value: fn(&Step) -> f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    None,
    Bytes,
}

/// The charts below that of the losses.
pub const MEASURES: [Measure; 4] = [
    Measure { title: "Learning rate", unit: Unit::None, value: |step| step.lr },
    Measure { title: "Gradient norm", unit: Unit::None, value: |step| step.grad_norm },
    Measure { title: "Tokens a second", unit: Unit::None, value: |step| step.tokens_per_s },
    Measure { title: "Device memory", unit: Unit::Bytes, value: |step| step.memory_bytes },
];

/// The class of the run at `index`.
pub fn colour(index: usize) -> String {
    format!("c{}", index % COLOURS)
}

fn steps_axis(runs: &[Run]) -> Axis {
    let last = runs.iter().map(|run| run.last().step).max().unwrap_or(1);
    Axis::new((0.0, last as f64), false)
}

/// Values that steps have, sampled for a drawing of so many columns.
fn line(run: &Run, values: impl ExactSizeIterator<Item = f64>, x: Axis, class: String, columns: f64) -> Line {
    let steps = run.steps.iter().map(|step| step.step as f64);
    Line { class, points: sampled(steps.zip(values), x.ends(), columns as usize) }
}

/// Losses of training, smoothed too, and of held-out data.
pub fn losses(runs: &[Run], id: &str, size: (f64, f64), log: bool) -> Chart {
    let x = steps_axis(runs);
    let alone = runs.len() == 1;
    let (mut lines, mut marks, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for (i, run) in runs.iter().enumerate() {
        let (train, held) = (colour(i), if alone { colour(1) } else { colour(i) });
        let raw = || run.steps.iter().map(|step| step.loss);
        let smooth = smooth(run);
        // With many runs the smoothed lines alone can be told apart.
        if alone || smooth.is_none() {
            let class = if smooth.is_some() { "raw" } else { "line" };
            lines.push(line(run, raw(), x, format!("{class} {train}"), size.0));
            shown.extend(raw());
        }
        if let Some(smooth) = smooth {
            shown.extend_from_slice(&smooth);
            lines.push(line(run, smooth.into_iter(), x, format!("line {train}"), size.0));
        }
        let evals = run.evals.iter().map(|eval| (eval.step as f64, eval.loss));
        let points: Vec<_> = sampled(evals, x.ends(), (size.0 / 8.0) as usize);
        let best = run.best().map(|best| (best.step as f64, best.loss));
        for &at in &points {
            let title = format!("{}step {}: held-out loss {}", prefix(run, alone), at.0, format::loss(at.1));
            let label = (alone && Some(at) == best).then(|| format::loss(at.1));
            marks.push(Mark { class: held.clone(), at, title, label });
        }
        shown.extend(points.iter().map(|point| point.1));
        lines.push(Line { class: format!("held {held}"), points });
    }
    let range = range(shown.iter().copied().filter(|value| !log || *value > 0.0)).unwrap_or((0.0, 1.0));
    let y = Axis::new(range, log).padded(0.05);
    Chart { title: "Loss over steps".into(), id: id.into(), size, x, y, lines, marks }
}

fn prefix(run: &Run, alone: bool) -> String {
    if alone { String::new() } else { format!("{}, ", run.name) }
}

fn smooth(run: &Run) -> Option<Vec<f64>> {
    let count = run.steps.len();
    let losses = || run.steps.iter().map(|step| step.loss).collect::<Vec<_>>();
    (count >= SMOOTHED_FROM).then(|| smoothed(&losses(), count as f64 / 20.0))
}

/// Whether a run's loss is also drawn smoothed.
pub fn is_smoothed(run: &Run) -> bool {
    run.steps.len() >= SMOOTHED_FROM
}

impl Measure {
    /// Whether a run has such values; a device may not know its memory.
    pub fn is_known(&self, runs: &[Run]) -> bool {
        runs.iter().flat_map(|run| &run.steps).any(|step| (self.value)(step) > 0.0)
    }

    /// The chart over steps, and the unit of its values.
    pub fn chart(&self, runs: &[Run], id: &str, size: (f64, f64)) -> (Chart, &'static str) {
        let x = steps_axis(runs);
        let all = || runs.iter().flat_map(|run| &run.steps).map(self.value);
        let most = all().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let (scale, unit) = match self.unit {
            Unit::None => (1.0, ""),
            Unit::Bytes => {
                let units = ["B", "KiB", "MiB", "GiB", "TiB"];
                let at = (0..units.len()).rev().find(|&at| most >= 1024f64.powi(at as i32)).unwrap_or(0);
                (1024f64.powi(at as i32), units[at])
            }
        };
        let lines = runs.iter().enumerate().map(|(i, run)| {
            let values = run.steps.iter().map(|step| (self.value)(step) / scale);
            line(run, values, x, format!("line thin {}", colour(i)), size.0)
        });
        let (_, high) = range(all()).unwrap_or((0.0, 1.0));
        // All of these are amounts, which are seen against zero.
        let y = Axis::new((0.0, high / scale), false).padded(0.05);
        let title = format!("{} over steps", self.title);
        (Chart { title, id: id.into(), size, x, y, lines: lines.collect(), marks: Vec::new() }, unit)
    }
}

/// The losses of one run as a picture of its own, with a title, for light and dark surroundings.
pub fn picture(run: &Run, log: bool) -> String {
    let (width, height) = (880.0, 420.0);
    let chart = losses(std::slice::from_ref(run), "plane", (width - 36.0, height - 16.0), log);
    let colours = include_str!("colours.css").replace(":root", "svg");
    let title = [run.model().unwrap_or_else(|| run.name.clone())].into_iter().chain(run.method());
    let title = title.collect::<Vec<_>>().join(" \u{b7} ");
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\">\n<style>\n{colours}{}\
         .chart .title {{ font-size: 18px; font-weight: 650; fill: var(--ink); }}\n\
         .chart .lead {{ font-size: 13px; }}\n</style>\n",
        escape(&format!("Loss of {title}")),
        include_str!("chart.css"),
    );
    let _ = writeln!(
        out,
        "<rect x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"10\" fill=\"var(--paper)\" stroke=\"var(--line)\"/>\n\
         <text class=\"title\" x=\"24\" y=\"38\">{}</text>\n<text class=\"lead\" x=\"24\" y=\"60\">{}</text>",
        width - 1.0,
        height - 1.0,
        escape(&title),
        escape(&summary(run))
    );
    legend(&mut out, run, width - 24.0);
    out.push_str("<g transform=\"translate(18 0)\">\n");
    chart.draw(&mut out, 76.0);
    out.push_str("</g>\n</svg>\n");
    out
}

/// Where a run ran and how long, in one line.
pub fn summary(run: &Run) -> String {
    let seconds = std::time::Duration::try_from_secs_f64(run.seconds()).unwrap_or_default();
    let parts = [
        Some(run.start.device.trim().to_owned()).filter(|device| !device.is_empty()),
        Some(run.start.precision.clone()).filter(|precision| !precision.is_empty()),
        Some(format!("{} steps", format::exact(run.last().step))),
        Some(format!("{} tokens in {}", format::count(run.tokens()), format::duration(seconds))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ")
}

fn legend(out: &mut String, run: &Run, right: f64) {
    let mut entries = match is_smoothed(run) {
        true => vec![
            ("<path class=\"raw c0\" d=\"M0 -4h18\"/>", "training loss"),
            ("<path class=\"line c0\" d=\"M0 -4h18\"/>", "smoothed"),
        ],
        false => vec![("<path class=\"line c0\" d=\"M0 -4h18\"/>", "training loss")],
    };
    if !run.evals.is_empty() {
        entries.push(("<circle class=\"c1\" cx=\"9\" cy=\"-4\" r=\"4\"/>", "held-out loss"));
    }
    for (i, (sign, text)) in entries.iter().enumerate() {
        let y = 30.0 + 19.0 * i as f64;
        let x = right - 108.0;
        let _ = writeln!(
            out,
            "<g transform=\"translate({x} {y})\">{sign}<text x=\"26\" y=\"0\">{text}</text></g>"
        );
    }
}

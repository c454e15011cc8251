//! Many numbers made into few that look the same.

/// A point of a line: x, and y, which is NaN where the line has a gap.
pub type Point = (f64, f64);

/// The points that show in a line of `columns` columns from `x0` to `x1`: of each column the lowest and the
/// highest, in their order. No spike is lost, and the work is one pass.
pub fn sampled(
    points: impl ExactSizeIterator<Item = Point>,
    (x0, x1): (f64, f64),
    columns: usize,
) -> Vec<Point> {
    if points.len() <= 2 * columns {
        return points.collect();
    }
    let mut out: Vec<Point> = Vec::with_capacity(2 * columns);
    let (mut column, mut low, mut high) = (usize::MAX, None::<Point>, None::<Point>);
    let mut flush = |low: &mut Option<Point>, high: &mut Option<Point>| match (low.take(), high.take()) {
        (Some(low), Some(high)) if low == high => out.push(low),
        (Some(low), Some(high)) if low.0 < high.0 => out.extend([low, high]),
        (Some(low), Some(high)) => out.extend([high, low]),
        _ => {}
    };
    for point in points.filter(|point| point.1.is_finite()) {
        let at = ((point.0 - x0) / (x1 - x0) * columns as f64) as usize;
        if at != column {
            flush(&mut low, &mut high);
            column = at;
        }
        if low.is_none_or(|low| point.1 < low.1) {
            low = Some(point);
        }
        if high.is_none_or(|high| point.1 > high.1) {
            high = Some(point);
        }
    }
    flush(&mut low, &mut high);
    out
}

/// Means over about `window` values around each, taken twice, so that the line is smooth and runs through the middle
/// of the values. Near the ends the window is shorter, and the line begins and ends where the values do. What is no
/// number is passed over.
pub fn smoothed(values: &[f64], window: f64) -> Vec<f64> {
    let half = (window / 2.0).max(1.0) as usize;
    means(&means(values, half), half)
}

fn means(values: &[f64], half: usize) -> Vec<f64> {
    // Sums and counts of all values before each.
    let mut before = Vec::with_capacity(values.len() + 1);
    let mut sum = (0.0, 0.0);
    before.push(sum);
    before.extend(values.iter().map(|value| {
        if value.is_finite() {
            sum = (sum.0 + value, sum.1 + 1.0);
        }
        sum
    }));
    let last = before.len() - 1;
    let mean = |i: usize| {
        let reach = half.min(i.min(last - 1 - i).max(half / 8));
        let (from, to) = (before[i.saturating_sub(reach)], before[(i + reach + 1).min(last)]);
        (to.0 - from.0) / (to.1 - from.1)
    };
    (0..last).map(mean).collect()
}

/// The range that shows almost all of the values: everything, unless a few lie so far out that the rest would be
/// flat. None if there are no numbers.
pub fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let last = values.len().checked_sub(1)?;
    let mut at = |part: f64| *values.select_nth_unstable_by((part * last as f64) as usize, f64::total_cmp).1;
    let (low, high, usual) = (at(0.0), at(1.0), at(0.98));
    let far = last >= 20 && high - usual > 3.0 * (usual - low);
    Some((low, if far { usual + 0.15 * (usual - low) } else { high }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<Point> {
        (0..n).map(|i| (i as f64, (i as f64 / 1000.0).sin())).collect()
    }

    /// A million steps make a small picture, and one step that stands out is still in it.
    #[test]
    fn a_spike_survives_sampling() {
        let mut points = wave(1_000_000);
        points[123_456].1 = 99.0;
        points[5].1 = f64::NAN;
        let few = sampled(points.iter().copied(), (0.0, 1e6), 500);
        assert!(few.len() <= 1002 && few.contains(&(123_456.0, 99.0)), "{}", few.len());
        assert!(few.windows(2).all(|pair| pair[0].0 < pair[1].0), "ascending");
        assert!(few.iter().all(|point| points[point.0 as usize] == *point), "nothing is made up");
        let short = wave(10);
        assert_eq!(sampled(short.iter().copied(), (0.0, 9.0), 500), short);
    }

    #[test]
    fn smoothing_runs_through_the_middle() {
        assert_eq!(smoothed(&[2.0, f64::NAN, 2.0], 10.0), [2.0, 2.0, 2.0]);
        assert!(smoothed(&[], 10.0).is_empty());
        assert!(smoothed(&[f64::NAN], 10.0)[0].is_nan());
        // A straight line with noise stays where it is, also at its ends.
        let noisy: Vec<f64> = (0..1000).map(|i| f64::from(i) + if i % 2 == 0 { 5.0 } else { -5.0 }).collect();
        let smooth = smoothed(&noisy, 40.0);
        for (i, value) in smooth.iter().enumerate() {
            assert!((value - i as f64).abs() < 5.0, "{i}: {value}");
        }
    }

    #[test]
    fn a_range_leaves_out_only_what_is_far_off() {
        assert_eq!(range([f64::NAN].into_iter()), None);
        assert_eq!(range([1.0, 5.0].into_iter()), Some((1.0, 5.0)));
        let one_far = (0..100).map(|i| if i == 0 { 1e6 } else { f64::from(i) });
        let (low, high) = range(one_far).expect("numbers");
        assert!(low == 1.0 && high > 99.0 && high < 200.0, "{high}");
        assert_eq!(range((0..100).map(f64::from)), Some((0.0, 99.0)));
    }
}

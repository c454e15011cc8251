//! Numbers as people read them.

use std::time::Duration;

/// A count in three or four digits: `950`, `12.3 k`, `134.5 M`.
pub fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", "k", "M", "G", "T"])
}

/// A count each second, of anything.
pub fn rate(per_second: f64) -> String {
    if per_second >= 100.0 {
        scaled(per_second.round(), 1000.0, &["", "k", "M", "G", "T"])
    } else {
        format!("{per_second:.1}")
    }
}

/// A size in memory or on a disk: `12 B`, `1.2 GiB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(mut x: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would round to the base is shown in the next unit: 1.0 M, not 1000.0 k.
    while x >= base - 0.05 && unit + 1 < units.len() {
        x /= base;
        unit += 1;
    }
    let number = if unit == 0 { format!("{x:.0}") } else { format!("{x:.1}") };
    if units[unit].is_empty() { number } else { format!("{number} {}", units[unit]) }
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn exact(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A learning rate or the like, in at most three digits: `2e-4`, `1.87e-5`, `0`.
pub fn small(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{x:.2e}");
    match text.split_once('e') {
        Some((digits, power)) if digits.contains('.') => {
            format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A loss.
pub fn loss(x: f64) -> String {
    format!("{x:.4}")
}

/// A loss's perplexity, `e^loss`.
pub fn perplexity(loss: f64) -> String {
    let p = loss.exp();
    match p {
        _ if p < 100.0 => format!("{p:.2}"),
        _ if p < 1e6 => format!("{p:.0}"),
        _ => small(p),
    }
}

/// A part of a whole: `1.8%`, `0.04%`.
pub fn share(part: u64, whole: u64) -> String {
    if part == whole {
        return "100%".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    if percent < 0.1 { format!("{percent:.2}%") } else { format!("{percent:.1}%") }
}

/// How long something took: `0.4 s`, `45 s`, `3 min 12 s`, `1 h 03 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// How long something will take, as a clock: `0:45`, `2:31`, `1:03:20`.
pub fn clock(time: Duration) -> String {
    let s = time.as_secs();
    if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_size() {
        let counts = [0, 950, 999, 1000, 12_345, 134_515_008, 999_990, 7_000_000_000].map(count);
        assert_eq!(counts, ["0", "950", "999", "1.0 k", "12.3 k", "134.5 M", "1.0 M", "7.0 G"]);
        assert_eq!([12, 1023, 1024, 1_288_490_189].map(bytes), ["12 B", "1023 B", "1.0 KiB", "1.2 GiB"]);
        assert_eq!([0.0, 7.25, 99.9, 451.7, 12_345.6].map(rate), ["0.0", "7.2", "99.9", "452", "12.3 k"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(exact), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 2e-4, 1.8734e-5, 0.1, 1.0].map(small), ["0", "2e-4", "1.87e-5", "1e-1", "1e0"]);
        assert_eq!([0.0, 3.0, 10.0, 20.0].map(perplexity), ["1.00", "20.09", "22026", "4.85e8"]);
        assert_eq!([(18, 1000), (4, 10_000), (5, 5)].map(|(a, b)| share(a, b)), ["1.8%", "0.04%", "100%"]);
    }

    #[test]
    fn times_are_in_the_units_that_matter() {
        let at = Duration::from_secs_f64;
        assert_eq!(
            [0.42, 9.96, 45.2, 59.9, 192.0, 3800.0].map(|s| duration(at(s))),
            ["0.4 s", "10 s", "45 s", "1 min 00 s", "3 min 12 s", "1 h 03 min"]
        );
        assert_eq!([0.0, 45.0, 151.0, 3800.0].map(|s| clock(at(s))), ["0:00", "0:45", "2:31", "1:03:20"]);
    }
}

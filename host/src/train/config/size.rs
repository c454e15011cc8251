use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes as a person writes it: `512MiB`, `8GB`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// Units, the longer names before their ends.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    /// So many bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let lower = text.trim().to_lowercase();
        let unit = UNITS.iter().find(|(name, _)| lower.ends_with(&name.to_lowercase()));
        let (number, unit) = match unit {
            Some((name, unit)) => (lower[..lower.len() - name.len()].trim_end(), *unit),
            None => (lower.as_str(), 1),
        };
        let bytes = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
        let bytes = bytes.map(|number| number * unit as f64).filter(|bytes| *bytes < (1u64 << 62) as f64);
        bytes.map(|bytes| Size(bytes as u64)).ok_or_else(|| {
            format!("{text:?} is no size; expected a number with a unit, such as 512MiB, 8GB or 0")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => f.write_str("0"),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Size, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept in a run folder is read back as the same.
    #[test]
    fn sizes_are_read_as_people_write_them_and_come_back_as_the_same() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("2GiB", 2 << 30),
            ("1.5 gib", 3 << 29),
            ("8GB", 8_000_000_000),
            ("512kb", 512_000),
        ] {
            let size: Size = text.parse().expect(text);
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string().parse(), Ok(size), "{text}");
        }
        for text in ["", "GB", "-1GB", "nan", "1e30TB", "8 apples"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}

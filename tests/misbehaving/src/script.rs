//! The words that say what a copy of this plugin does: clauses `POINT [K]: ACTION`, separated by `;`.

use std::hint::black_box;

use finetune_plugin_api::export::Error;

use crate::act::act;

/// Where it can misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// While the system's loader loads the library.
    Load,
    /// When it is asked for devices.
    Probe,
    /// When a device is opened.
    Open,
    /// When a program is compiled.
    Compile,
    /// When a program is run, counted from 1.
    Run,
    /// When the program that ends a training step is run, counted from 1.
    Step,
}

/// One clause.
#[derive(Clone, Debug)]
pub struct Clause {
    point: &'static str,
    /// Only at the so-many-th time.
    count: Option<u64>,
    action: &'static str,
}

/// What this copy does.
#[derive(Clone, Debug)]
pub struct Script(Vec<Clause>);

impl Point {
    fn word(self) -> &'static str {
        match self {
            Point::Load => "load",
            Point::Probe => "probe",
            Point::Open => "open",
            Point::Compile => "compile",
            Point::Run => "run",
            Point::Step => "step",
        }
    }
}

impl Script {
    /// What was written into the file that this code was loaded from.
    pub fn of_this_file() -> Script {
        // The compiler must not believe that the bytes are those of the source.
        let bytes: &'static [u8] = black_box(&crate::BEHAVIOUR);
        let words = &bytes[crate::MARK..];
        let length = words.iter().position(|byte| *byte == 0).unwrap_or(words.len());
        let text = str::from_utf8(&words[..length]).unwrap_or_default();
        let clauses = text.split(';').filter_map(|clause| {
            let (point, action) = clause.split_once(':')?;
            let (point, count) = match point.trim().split_once(' ') {
                Some((point, count)) => (point, count.trim().parse().ok()),
                None => (point.trim(), None),
            };
            Some(Clause { point, count, action: action.trim() })
        });
        Script(clauses.collect())
    }

    /// Does what is said for a point, the `count`th time that it is reached.
    pub fn at(&self, point: Point, count: u64) -> Result<(), Error> {
        match self.actions(point, count).find(|action| !is_after(action)) {
            Some(action) if self.is_due() => act(action),
            _ => Ok(()),
        }
    }

    /// What is to be done to the results of a run.
    pub fn after(&self, point: Point, count: u64) -> Option<&'static str> {
        let mut actions = self.actions(point, count);
        actions.find(|action| matches!(*action, "wrong" | "nan" | "half")).filter(|_| self.is_due())
    }

    /// The most rows that an input may have, if there is a limit at this point.
    pub fn most_rows(&self, point: Point) -> Option<usize> {
        let mut actions = self.0.iter().filter(|clause| clause.point == point.word());
        actions.find_map(|clause| clause.action.strip_prefix("most-rows ")?.parse().ok())
    }

    /// The words after `KEY:`.
    pub fn word(&self, key: &str) -> Option<&'static str> {
        self.0.iter().find(|clause| clause.point == key).map(|clause| clause.action)
    }

    /// How much memory it claims to have.
    pub fn memory(&self) -> Option<u64> {
        self.word("memory").and_then(|bytes| bytes.parse().ok())
    }

    fn actions(&self, point: Point, count: u64) -> impl Iterator<Item = &'static str> {
        let due = move |clause: &&Clause| {
            clause.point == point.word() && clause.count.is_none_or(|only| only == count)
        };
        self.0.iter().filter(due).map(|clause| clause.action)
    }

    /// With `once: FILE`, only the one who makes the file misbehaves: a process that is started again does not.
    fn is_due(&self) -> bool {
        let Some(mark) = self.word("once") else { return true };
        std::fs::OpenOptions::new().write(true).create_new(true).open(mark).is_ok()
    }
}

/// Actions that need the results of a run.
fn is_after(action: &str) -> bool {
    matches!(action, "wrong" | "nan" | "half") || action.starts_with("most-rows ")
}

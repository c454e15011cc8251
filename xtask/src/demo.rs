//! A small model trained on a small text, in the open: every command is shown before it runs.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::process;
use crate::workspace::Workspace;

/// About a minute on two cores.
pub const STEPS: u32 = 250;

const MODEL: &str = "demo/config.json";
const TRAIN: &str = "demo/train.txt";
const VALID: &str = "demo/valid.txt";

/// With these its held-out loss falls from 7.0 to about 5.1.
const RECIPE: [&str; 16] = [
    "--method",
    "full",
    "--batch",
    "8",
    "--seq-len",
    "128",
    "--lr",
    "3e-3",
    "--schedule",
    "cosine",
    "--warmup",
    "10",
    "--clip",
    "1",
    "--seed",
    "1",
];

pub fn run(workspace: &Workspace, steps: u32) -> Result<()> {
    for file in [MODEL, "demo/tokenizer.json", TRAIN, VALID] {
        ensure!(
            workspace.root.join(file).is_file(),
            "{file} is missing; the demo needs the whole repository"
        );
    }
    println!("Building the program and its plugins, optimized; the first time takes some minutes.");
    let built = build::product(workspace, Profile::Release)?;
    // Shown and started as a person in the root would: relative, where that is possible.
    env::set_current_dir(&workspace.root)
        .with_context(|| format!("could not enter the folder {}", workspace.root.display()))?;
    let program = built.program.strip_prefix(&workspace.root).unwrap_or(&built.program);

    shown(Command::new(program).args(["plugins", "list"]))?;

    let out = Path::new("runs").join(format!("demo-{}", stamp(SystemTime::now())?));
    let steps = steps.to_string();
    let mut train = Command::new(program);
    train.args(["train", "--model", MODEL, "--data", TRAIN, "--valid", VALID]).args(RECIPE);
    train.args(["--steps", &steps, "--out"]).arg(&out);
    shown(&mut train)?;
    println!("\nThe trained model, its configuration and its metrics are in {}.", out.display());
    Ok(())
}

fn shown(command: &mut Command) -> Result<()> {
    println!("\n$ {}", process::line(command));
    process::run(command)
}

/// Date and time in UTC, as `20260131-235959`.
fn stamp(now: SystemTime) -> Result<String> {
    let seconds =
        now.duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Ok(format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}"))
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(mut days: u64) -> (u64, usize, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Run folders sort by time; leap days, century rules and the last second of a year are where this goes wrong.
    #[test]
    fn stamps_are_calendar_dates() {
        for (seconds, expected) in [
            (0, "19700101-000000"),
            (951_782_400, "20000229-000000"),
            (1_767_225_599, "20251231-235959"),
            (1_835_395_199, "20280228-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap(), expected);
        }
    }
}

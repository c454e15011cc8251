//! A small model gets a new voice, in the open: every command is shown before it runs.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::process;
use crate::workspace::Workspace;

/// With building left out, less than a minute on two cores.
pub const STEPS: u32 = 400;

const MODEL: &str = "demo/model";
const TRAIN: &str = "demo/style/train.jsonl";
const VALID: &str = "demo/style/valid.jsonl";

/// The test of the demo's model, tests/tests/demo.rs, trains with the same.
const RECIPE: [&str; 14] = [
    "--rank",
    "16",
    "--alpha",
    "32",
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
];

/// How the texts begin that are written before and after.
const PROMPTS: [&str; 2] = ["This morning", "The wind"];
const SAMPLING: [&str; 8] = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "8", "--max-tokens", "60"];

pub fn run(workspace: &Workspace, steps: u32) -> Result<()> {
    for file in ["demo/model/model.safetensors", TRAIN, VALID] {
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
    let out = Path::new("runs").join(format!("demo-{}", stamp(SystemTime::now())?));
    let adapter = out.join("adapter");

    shown(Command::new(program).args(["plugins", "list"]))?;

    said("The model writes little stories, as those it was made from:");
    generate(program, None)?;

    said("It learns to write as the keeper of a lighthouse:");
    let steps = steps.to_string();
    let mut train = Command::new(program);
    train.args(["train", "--model", MODEL, "--data", TRAIN, "--valid", VALID]).args(RECIPE);
    train.args(["--steps", &steps, "--out"]).arg(&out);
    shown(&mut train)?;

    said("The same beginnings, with what it has learned:");
    generate(program, Some(&adapter))?;

    println!("\nThe adapter is in {}, the record of the run beside it.", adapter.display());
    Ok(())
}

fn generate(program: &Path, adapter: Option<&Path>) -> Result<()> {
    for prompt in PROMPTS {
        let mut command = Command::new(program);
        command.args(["generate", "--model", MODEL]);
        if let Some(adapter) = adapter {
            command.arg("--adapter").arg(adapter);
        }
        command.args(SAMPLING).args(["--prompt", prompt]);
        println!("\n$ {}", process::line(&command));
        println!("\n{}", text(prompt, &process::quiet_output(&mut command)?));
    }
    Ok(())
}

/// A prompt and how the model went on, as a reader wants it: in lines, and without half a word where it was cut.
fn text(prompt: &str, completion: &str) -> String {
    let mut text = format!("{prompt}{}", completion.trim_end());
    if !text.ends_with(['.', '!', '?', '"']) {
        text.truncate(text.rfind(char::is_whitespace).unwrap_or(text.len()));
        text += " ...";
    }
    let mut lines = vec![String::from("   ")];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        match line.len() + word.len() < 115 {
            true => *line += &format!(" {word}"),
            false => lines.push(format!("    {word}")),
        }
    }
    lines.join("\n")
}

fn said(sentence: &str) {
    println!("\n# {sentence}");
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

    #[test]
    fn a_text_begins_with_its_prompt_and_says_that_it_was_cut() {
        assert_eq!(text("The wind", " is up.\n\nAll well."), "    The wind is up. All well.");
        assert_eq!(text("The", &" word".repeat(30)).lines().count(), 2);
        assert_eq!(text("The", " wind blew wor"), "    The wind blew ...");
    }

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

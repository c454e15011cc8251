//! Feeds changed inputs to everything that reads bytes from outside, and looks for panics.
//!
//! ```text
//! cargo run -p finetune-tests --bin fuzz -- [--seconds N] [--seed N] [--target NAME]
//! ```
//!
//! Each input follows from one number. A panic is reported with the input and that number; with it as `--seed`
//! and `--seconds 0` the same input runs again, alone. A new reader is one row of `targets::TARGETS`.

mod change;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use finetune_plugin_api::conformance::Random;

use change::changed;
use targets::{TARGETS, Target};

struct Options {
    seconds: u64,
    seed: u64,
    target: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seconds: 20, seed: 1, target: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{arg} {value}: expected a whole number"));
        match arg.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--target" => options.target = Some(value),
            _ => return Err(format!("{arg} is unknown; there are --seconds N, --seed N and --target NAME")),
        }
    }
    Ok(options)
}

/// Runs one target until the time is over, at least once. Returns how many inputs it read, or the report of
/// a panic.
fn fuzz(target: &Target, seed: u64, time: Duration, folder: &Path) -> Result<u64, String> {
    let corpus = (target.corpus)();
    corpus.iter().try_for_each(|input| attempt(target, input, folder, "of the corpus"))?;
    let begin = Instant::now();
    let mut count = 0;
    while count == 0 || begin.elapsed() < time {
        let seed = seed.wrapping_add(count);
        let input = changed(&mut Random::new(seed), &corpus);
        attempt(target, &input, folder, &format!("of --seed {seed} --seconds 0 --target {}", target.name))?;
        count += 1;
    }
    Ok(count)
}

fn attempt(target: &Target, input: &[u8], folder: &Path, origin: &str) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input, folder))).map_err(|_| {
        let shown = String::from_utf8_lossy(input);
        format!("{} panicked on the input {origin}:\n{shown}\nas bytes: {input:?}", target.name)
    })
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let named = |target: &&Target| options.target.as_ref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(named).collect();
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("there is no such target; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let share = Duration::from_secs(options.seconds) / targets.len() as u32;
    for target in targets {
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                eprintln!("a temporary folder cannot be made: {error}");
                return ExitCode::FAILURE;
            }
        };
        match fuzz(target, options.seed, share, folder.path()) {
            Ok(count) => println!("{}: {count} inputs, no panic", target.name),
            Err(report) => {
                eprintln!("{report}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reader takes its valid inputs, and the first few hundred that are nearly so.
    #[test]
    fn no_target_panics_on_the_first_inputs() {
        for target in TARGETS {
            let folder = tempfile::tempdir().unwrap();
            let corpus = (target.corpus)();
            let changed = (0..300).map(|seed| changed(&mut Random::new(seed), &corpus));
            for input in corpus.iter().cloned().chain(changed) {
                attempt(target, &input, folder.path(), "of this test").unwrap();
            }
        }
    }
}

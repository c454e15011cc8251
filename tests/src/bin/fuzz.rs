//! Feeds changed inputs to everything that reads bytes from outside, and looks for panics.
//!
//! ```text
//! cargo run -p finetune-tests --bin fuzz -- [--seconds N] [--seed N] [--target NAME]
//! ```
//!
//! Each input follows from one number. A panic is reported with the input and that number; with it as `--seed`
//! and `--seconds 0` the same input runs again, alone. A new reader is one row of [`TARGETS`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use finetune_plugin_api::conformance::{Random, cases, random_program};
use finetune_plugin_api::program::{lower, text};

/// One reader of outside bytes.
struct Target {
    name: &'static str,
    /// Must return for every input; what it finds wrong with a valid one it says by a panic.
    run: fn(&[u8]),
    /// Valid inputs to begin from, at least one.
    corpus: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[Target { name: "program-text", run: read_program, corpus: program_texts }];

fn read_program(input: &[u8]) {
    let Ok(program) = text::parse(&String::from_utf8_lossy(input)) else { return };
    let printed = text::print(&program);
    let again = text::parse(&printed).expect("a printed program parses");
    assert_eq!(text::print(&again), printed, "printing is canonical");
    // Shapes beyond what u32 positions can name have no decomposition; that is an error, never a panic.
    if let Ok(lowered) = lower(&program, &|_| false) {
        text::parse(&text::print(&lowered)).expect("a lowered program is valid");
    }
}

fn program_texts() -> Vec<Vec<u8>> {
    let mut rng = Random::new(1);
    let random = (0..200).map(|_| random_program(&mut rng, 8));
    let programs = cases().into_iter().map(|case| case.program).step_by(7).chain(random);
    programs.map(|program| text::print(&program).into_bytes()).collect()
}

/// Words at the edges of what readers of numbers, lists and strings expect.
const TOKENS: &[&str] = &[
    "0",
    "-1",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "18446744073709551616",
    "1e999",
    "nan",
    "inf",
    "%0",
    "%4294967295",
    "[",
    "]",
    "[]",
    "[0]",
    "{",
    "}",
    "(",
    ")",
    "\"",
    "\\",
    "\\u{",
    ",",
    "=",
    ":",
    "#",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "end",
    "true",
];

/// A valid input with one to eight changes, or a joint of two.
fn changed(rng: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(8) {
        let length = input.len();
        let (a, b) = (rng.below(length + 1), rng.below(length + 1));
        let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 64));
        match rng.below(7) {
            0 if length > 0 => input[a.min(length - 1)] ^= 1 << rng.below(8),
            1 if length > 0 => input[a.min(length - 1)] = rng.next_u64() as u8,
            2 => drop(input.drain(from..to)),
            3 => {
                let copy = input[from..to].to_vec();
                let at = rng.below(length + 1);
                input.splice(at..at, copy);
            }
            4 => replace_word(rng, &mut input, a),
            5 => {
                let other = &corpus[rng.below(corpus.len())];
                input.truncate(a);
                input.extend(&other[rng.below(other.len() + 1)..]);
            }
            _ => input.truncate(length - rng.below(length + 1) / 4),
        }
    }
    input
}

/// Puts a token in place of the number or word at or after a position.
fn replace_word(rng: &mut Random, input: &mut Vec<u8>, at: usize) {
    let start = (at..input.len()).find(|&i| input[i].is_ascii_alphanumeric()).unwrap_or(at);
    let end = (start..input.len()).find(|&i| !input[i].is_ascii_alphanumeric()).unwrap_or(input.len());
    input.splice(start..end, TOKENS[rng.below(TOKENS.len())].bytes());
}

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
fn fuzz(target: &Target, seed: u64, time: Duration) -> Result<u64, String> {
    let corpus = (target.corpus)();
    corpus.iter().try_for_each(|input| attempt(target, input, "of the corpus"))?;
    let begin = Instant::now();
    let mut count = 0;
    while count == 0 || begin.elapsed() < time {
        let seed = seed.wrapping_add(count);
        let input = changed(&mut Random::new(seed), &corpus);
        attempt(target, &input, &format!("of --seed {seed} --seconds 0 --target {}", target.name))?;
        count += 1;
    }
    Ok(count)
}

fn attempt(target: &Target, input: &[u8], origin: &str) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|_| {
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
        match fuzz(target, options.seed, share) {
            Ok(count) => println!("{}: {count} inputs, no panic", target.name),
            Err(report) => {
                eprintln!("{report}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

//! Runs whose back end fails: what their tests share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::misbehaving::place;
use crate::{events, finetune, goldens, json_lines, number, plugins};

/// A folder of plugins in which `cpu` is the only good one, and run folders beside it.
pub struct Place(tempfile::TempDir);

/// What a command left: its exit code, its events, and what it said to a person.
pub struct Ran {
    /// See above.
    pub code: Option<i32>,
    /// See above.
    pub lines: Vec<Value>,
    /// See above.
    pub said: String,
}

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

impl Place {
    /// A new one.
    pub fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.plugins()).unwrap();
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let library = format!("{prefix}finetune_cpu{suffix}");
        std::fs::copy(plugins().join(&library), place.plugins().join(&library)).unwrap();
        place
    }

    pub fn plugins(&self) -> PathBuf {
        self.0.path().join("plugins")
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn mark(&self, name: &str) -> String {
        self.0.path().join(format!("{name}-mark")).display().to_string()
    }

    pub fn plugin(&self, name: &str, behaviour: &str) {
        place(&self.plugins(), name, behaviour);
    }

    pub fn train(&self, out: &str, backend: &str, extra: &[&str]) -> Command {
        let mut command = finetune(["train", "--json", "--method", "lora", "--rank", "2", "--steps", "6"]);
        command.args([
            "--batch",
            "4",
            "--seq-len",
            "16",
            "--seed",
            "3",
            "--lr",
            "1e-2",
            "--precision",
            "f32",
        ]);
        command.args(["--backend", backend, "--save-every", "0"]).args(extra);
        command.arg("--model").arg(goldens().join("llama2/model"));
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        command.arg("--out").arg(self.out(out)).arg("--plugins").arg(self.plugins());
        command
    }

    pub fn run(&self, out: &str, backend: &str, extra: &[&str]) -> Ran {
        let ran = ran(self.train(out, backend, extra).output().expect("the program starts"));
        self.nothing_is_left();
        ran
    }

    /// A run that has to come to its end.
    #[track_caller]
    pub fn succeed(&self, out: &str, backend: &str, extra: &[&str]) -> Ran {
        let ran = self.run(out, backend, extra);
        assert_eq!(ran.code, Some(0), "{}", ran.said);
        assert_eq!(losses(&metrics(&self.out(out))).len(), 6, "metrics.jsonl holds every step once");
        let adapter = self.out(out).join("adapter/adapter_model.safetensors");
        assert!(adapter.exists());
        ran
    }

    /// No process has a library of this place loaded or names it.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = self.processes();
        assert_eq!(left, Vec::<u32>::new(), "processes are left");
    }

    pub fn processes(&self) -> Vec<u32> {
        let folder = self.0.path().to_str().unwrap();
        let names = |path: &Path, file: &str| {
            let bytes = std::fs::read(path.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(folder)
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let named = numbers.filter(|process| {
            let path = PathBuf::from(format!("/proc/{process}"));
            names(&path, "maps") || names(&path, "cmdline")
        });
        named.collect()
    }
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        lines: json_lines(
            std::str::from_utf8(&output.stdout).expect("events alone, whatever a plugin prints"),
        ),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn metrics(out: &Path) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap())
}

pub fn losses(lines: &[Value]) -> Vec<(u64, u64)> {
    let steps = events(lines, "step");
    steps.iter().map(|step| (step["step"].as_u64().unwrap(), number(step, "loss").to_bits())).collect()
}

/// The run says what happened: in an event, in the record of its folder, and in a line.
#[track_caller]
pub fn told(place: &Place, out: &str, ran: &Ran, expected: &[(&str, Option<&str>)]) {
    for lines in [&ran.lines, &metrics(&place.out(out))] {
        let fallbacks = events(lines, "fallback");
        let found: Vec<_> = fallbacks
            .iter()
            .map(|event| (event["cause"].as_str().unwrap(), event["next"].as_str()))
            .collect();
        assert_eq!(found, expected, "{}", ran.said);
    }
    for event in events(&ran.lines, "fallback") {
        let message = event["message"].as_str().unwrap();
        assert!(ran.said.contains(message), "{message:?} is missing in: {}", ran.said);
    }
}

pub fn message(ran: &Ran, at: usize) -> String {
    events(&ran.lines, "fallback")[at]["message"].as_str().unwrap().to_owned()
}

/// What a command left.
pub fn ran_of(command: &mut Command) -> Ran {
    ran(command.output().expect("the program starts"))
}

/// The worker of a supervisor.
#[cfg(target_os = "linux")]
pub fn worker_of(supervisor: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[cfg(target_os = "linux")]
pub fn wait_for(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! What a run folder tells of its run.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Bytes of a line that are believed to be an event; a longer one is skipped.
const LONGEST: u64 = 1 << 20;
/// Notes that are kept of a run; the rest is counted.
const KEPT_NOTES: usize = 200;

/// A run, as its folder has it.
#[derive(Debug, Default)]
pub struct Run {
    /// The folder.
    pub path: PathBuf,
    /// The folder's name.
    pub name: String,
    /// The settings, by name, in the order of the file.
    pub settings: Vec<(String, String)>,
    /// What the last process said of itself when it began.
    pub start: Start,
    /// Steps, ascending, each once.
    pub steps: Vec<Step>,
    /// Held-out losses, by the steps taken before.
    pub evals: Vec<Eval>,
    /// What else happened, by the steps taken before.
    pub notes: Vec<(u64, Note)>,
    /// Notes beyond those that are kept.
    pub more_notes: usize,
    /// Whether the run came to its end.
    pub ended: bool,
    /// Lines that are no events: cut off, or damaged.
    pub damaged: usize,
}

/// The device and the size of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    pub backend: String,
    pub device: String,
    pub precision: String,
    pub trainable: u64,
    pub parameters: u64,
    /// Steps that it was to take.
    pub steps: u64,
}

/// One step. What was not a number in the file is NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub step: u64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub tokens: u64,
    pub step_s: f64,
    pub tokens_per_s: f64,
    pub memory_bytes: f64,
}

/// One held-out loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eval {
    pub step: u64,
    pub loss: f64,
    pub tokens: u64,
}

/// What a person may want to know of.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Begun(String),
    Saved(String),
    Warning(String),
    Ended,
}

/// An event's line, read with nothing required: a report is also made of runs that went wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    event: String,
    step: Option<u64>,
    steps: Option<u64>,
    loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    tokens: Option<u64>,
    step_s: Option<f64>,
    tokens_per_s: Option<f64>,
    memory_bytes: Option<f64>,
    backend: Option<String>,
    device: Option<String>,
    precision: Option<String>,
    trainable: Option<u64>,
    parameters: Option<u64>,
    resumed_from: Option<u64>,
    path: Option<String>,
    message: Option<String>,
}

impl Run {
    /// Reads the run in the folder `path`.
    ///
    /// # Errors
    /// It is no run folder, or has no step yet.
    pub fn open(path: &Path) -> anyhow::Result<Run> {
        let metrics = path.join("metrics.jsonl");
        if !metrics.is_file() {
            bail!(
                "{} is no run folder: it has no metrics.jsonl; give a folder that `finetune train --out` made",
                path.display()
            );
        }
        let file = File::open(&metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
        let full = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let name = full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned();
        let mut run =
            Run { path: path.into(), name, settings: settings(&path.join("config.toml")), ..Run::default() };
        run.read(BufReader::new(file)).with_context(|| format!("cannot read {}", metrics.display()))?;
        if run.steps.is_empty() {
            bail!(
                "{} tells of no step yet, so there is nothing to draw; try again once the first step is taken",
                metrics.display()
            );
        }
        Ok(run)
    }

    fn read(&mut self, mut input: impl BufRead) -> std::io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.len() as u64 == LONGEST && line.last() != Some(&b'\n') {
                input.skip_until(b'\n')?;
            } else if line.trim_ascii().is_empty() {
                continue;
            } else if let Some(event) = parse(&line) {
                self.event(event);
                continue;
            }
            self.damaged += 1;
        }
    }

    fn event(&mut self, line: Line) {
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let text = |value: Option<String>| value.unwrap_or_default();
        let done = self.steps.last().map_or(0, |step| step.step);
        match (line.event.as_str(), line.step) {
            ("step", Some(step)) => {
                // Taken again after a process died: the later one counts.
                self.forget_from(step);
                self.ended = false;
                self.steps.push(Step {
                    step,
                    loss: number(line.loss),
                    lr: number(line.lr),
                    grad_norm: number(line.grad_norm),
                    tokens: line.tokens.unwrap_or(0),
                    step_s: number(line.step_s),
                    tokens_per_s: number(line.tokens_per_s),
                    memory_bytes: number(line.memory_bytes),
                });
            }
            ("eval", Some(step)) => {
                while self.evals.last().is_some_and(|eval| eval.step >= step) {
                    self.evals.pop();
                }
                self.evals.push(Eval { step, loss: number(line.loss), tokens: line.tokens.unwrap_or(0) });
            }
            ("start", _) => {
                let from = line.resumed_from.unwrap_or(0);
                self.forget_from(from.saturating_add(1));
                self.ended = false;
                self.start = Start {
                    backend: text(line.backend),
                    device: text(line.device),
                    precision: text(line.precision),
                    trainable: line.trainable.unwrap_or(0),
                    parameters: line.parameters.unwrap_or(0),
                    steps: line.steps.unwrap_or(0),
                };
                let device = format!("{} ({})", self.start.device, self.start.backend);
                self.note(from, Note::Begun(if from > 0 { format!("went on, on {device}") } else { device }));
            }
            ("saved", step) => self.note(step.unwrap_or(done), Note::Saved(text(line.path))),
            ("warning" | "fallback" | "memory", _) => self.note(done, Note::Warning(text(line.message))),
            ("end", _) => {
                self.ended = true;
                self.note(line.steps.unwrap_or(done), Note::Ended);
            }
            _ => self.damaged += 1,
        }
    }

    fn note(&mut self, step: u64, note: Note) {
        // A run saves often and ends once: what is saved makes room for the rest.
        if self.notes.len() >= KEPT_NOTES {
            self.more_notes += 1;
            let saved = self.notes.iter().position(|(_, note)| matches!(note, Note::Saved(_)));
            match saved {
                Some(at) => drop(self.notes.remove(at)),
                None => return,
            }
        }
        self.notes.push((step, note));
    }

    fn forget_from(&mut self, step: u64) {
        while self.steps.last().is_some_and(|last| last.step >= step) {
            self.steps.pop();
        }
        while self.evals.last().is_some_and(|last| last.step >= step) {
            self.evals.pop();
        }
    }

    /// A setting as it is in the file.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The last step.
    pub fn last(&self) -> &Step {
        self.steps.last().expect("a run is opened only with a step")
    }

    /// The lowest held-out loss.
    pub fn best(&self) -> Option<&Eval> {
        self.evals.iter().filter(|eval| eval.loss.is_finite()).min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// Target tokens of all steps.
    pub fn tokens(&self) -> u64 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.tokens))
    }

    /// Seconds in all steps.
    pub fn seconds(&self) -> f64 {
        self.steps
            .iter()
            .map(|step| step.step_s)
            .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
            .sum()
    }

    /// Model, method and data in a few words each, as far as they are known.
    pub fn model(&self) -> Option<String> {
        let path = self.setting("model")?;
        // A config alone is named by the folder that it is in.
        let folder = path.strip_suffix("config.json").filter(|folder| !folder.is_empty());
        Some(last_name(folder.unwrap_or(path)))
    }

    /// `LoRA, rank 8`, or `all weights`.
    pub fn method(&self) -> Option<String> {
        Some(match self.setting("method")? {
            "lora" => match self.setting("rank") {
                Some(rank) => format!("LoRA, rank {rank}"),
                None => "LoRA".into(),
            },
            "full" => "all weights".into(),
            other => other.into(),
        })
    }
}

/// The last part of a path, of whichever system.
pub fn last_name(path: &str) -> String {
    let name = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    if name.is_empty() { path.into() } else { name.into() }
}

/// The settings as text. A file that is missing or damaged has none: the rest of the run is still worth seeing.
fn settings(path: &Path) -> Vec<(String, String)> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let shown = |value: toml::Value| match value {
        toml::Value::String(text) => text,
        toml::Value::Array(list) => list
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        // As a person writes it: 1e-8.
        toml::Value::Float(x) if x != 0.0 && x.abs() < 1e-2 => format!("{x:e}"),
        other => other.to_string(),
    };
    table.into_iter().map(|(key, value)| (key, shown(value))).collect()
}

fn parse(line: &[u8]) -> Option<Line> {
    match serde_json::from_slice(line) {
        Ok(line) => Some(line),
        // Other programs write numbers that are none as these words, which JSON does not have.
        Err(_) => {
            let text = std::str::from_utf8(line).ok()?;
            if !text.contains("NaN") && !text.contains("Infinity") {
                return None;
            }
            serde_json::from_str(&without_words(text)).ok()
        }
    }
}

/// `NaN` and `Infinity` outside of strings become null.
fn without_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].iter().find(|word| !quoted && rest.starts_with(**word));
        let taken = match (word, c) {
            (Some(word), _) => {
                out.push_str("null");
                word.len()
            }
            (None, '\\') if quoted => {
                let escaped = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..escaped]);
                escaped
            }
            (None, c) => {
                quoted ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

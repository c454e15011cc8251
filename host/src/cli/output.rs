//! Results on standard output, and errors for people.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::train::{Event, Observer};

/// Standard output, one result after the other. Once its reader has gone away nothing more is written, and
/// nothing else changes: a run goes on without an audience.
pub struct Output<W> {
    out: Option<W>,
}

impl Output<io::Stdout> {
    /// Standard output.
    pub fn stdout() -> Output<io::Stdout> {
        Output::new(io::stdout())
    }
}

impl<W: Write> Output<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Output<W> {
        Output { out: Some(out) }
    }

    /// Whether its reader is there still, as far as was noticed.
    pub fn is_read(&self) -> bool {
        self.out.is_some()
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// What the system says, except that a reader that went away is none.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.out = None;
                Ok(())
            }
            other => other,
        }
    }

    /// Writes an object as one line of JSON.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn json(&mut self, object: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(object)?;
        self.text(&(line + "\n"))
    }
}

/// Writes each event as a line of JSON.
pub struct JsonEvents<W> {
    output: Output<W>,
    error: Option<io::Error>,
}

impl<W: Write> JsonEvents<W> {
    /// Writes to `output`.
    pub fn new(output: Output<W>) -> JsonEvents<W> {
        JsonEvents { output, error: None }
    }

    /// The first error in writing: a full disk, most often.
    pub fn error(self) -> Option<io::Error> {
        self.error
    }
}

impl<W: Write> Observer for JsonEvents<W> {
    fn event(&mut self, event: &Event) {
        if self.error.is_none() {
            self.error = self.output.json(event).err();
        }
    }
}

/// An error and what it came of in one sentence. Causes that the sentence before them already tells are left
/// out.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{}: {cause}", text.trim_end_matches('.'));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use serde_json::json;

    use crate::train::Cause;

    use super::*;

    fn lines(events: &[Event]) -> Vec<serde_json::Value> {
        let mut bytes = Vec::new();
        let mut json = JsonEvents::new(Output::new(&mut bytes));
        events.iter().for_each(|event| json.event(event));
        assert!(json.error().is_none());
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    /// Other programs read these keys.
    #[test]
    fn events_have_exactly_these_keys() {
        let shown = lines(&[
            Event::Start {
                backend: "cpu".into(),
                device: "d".into(),
                precision: "f32".into(),
                trainable: 1,
                parameters: 2,
                peak_bytes_planned: 3,
                resumed_from: 0,
                steps: 4,
            },
            Event::Step {
                step: 1,
                loss: 1.5,
                lr: 0.1,
                grad_norm: 2.5,
                tokens: 7,
                step_s: 0.5,
                tokens_per_s: 14.0,
                memory_bytes: 9,
            },
            Event::Eval { step: 1, loss: 1.25, tokens: 6 },
            Event::Saved { step: 1, path: "out/adapter".into() },
            Event::Warning { message: "w".into() },
            Event::Fallback {
                step: 1,
                cause: Cause::OutOfMemory,
                backend: "a:0".into(),
                next: Some("b:0".into()),
                micro_batch: 2,
                message: "m".into(),
            },
            Event::Memory { available_bytes: 1, swap_bytes: 2, worker_bytes: 3, message: "s".into() },
            Event::End { steps: 1, loss: 1.5, seconds: 0.75 },
        ]);
        let expected = json!([
            {"event": "start", "backend": "cpu", "device": "d", "precision": "f32", "trainable": 1, "parameters": 2,
             "peak_bytes_planned": 3, "resumed_from": 0, "steps": 4},
            {"event": "step", "step": 1, "loss": 1.5, "lr": 0.1, "grad_norm": 2.5, "tokens": 7, "step_s": 0.5,
             "tokens_per_s": 14.0, "memory_bytes": 9},
            {"event": "eval", "step": 1, "loss": 1.25, "tokens": 6},
            {"event": "saved", "step": 1, "path": "out/adapter"},
            {"event": "warning", "message": "w"},
            {"event": "fallback", "step": 1, "cause": "out-of-memory", "backend": "a:0", "next": "b:0",
             "micro_batch": 2, "message": "m"},
            {"event": "memory", "available_bytes": 1, "swap_bytes": 2, "worker_bytes": 3, "message": "s"},
            {"event": "end", "steps": 1, "loss": 1.5, "seconds": 0.75},
        ]);
        assert_eq!(serde_json::Value::Array(shown), expected);
    }

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// `finetune … | head` is no failure; a full disk is one.
    #[test]
    fn a_reader_may_go_away_but_a_disk_may_not_be_full() {
        let mut gone = Output::new(Failing(ErrorKind::BrokenPipe));
        assert!(gone.text("a").is_ok() && gone.json(&1).is_ok());
        assert!(Output::new(Failing(ErrorKind::StorageFull)).text("a").is_err());
        let mut events = JsonEvents::new(Output::new(Failing(ErrorKind::StorageFull)));
        events.event(&Event::Warning { message: "w".into() });
        assert!(events.error().is_some());
    }

    #[test]
    fn an_error_is_one_sentence_with_each_cause_once() {
        let error =
            Err::<(), _>(anyhow!("no such file")).context("cannot read a.toml").expect_err("an error");
        assert_eq!(sentence(&error), "cannot read a.toml: no such file");
        let told = anyhow!("no such file").context("cannot read a.toml: no such file");
        assert_eq!(sentence(&told), "cannot read a.toml: no such file");
    }
}

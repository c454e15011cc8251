//! The data room: file, rows, tokens, examples, batches.
//!
//! It knows nothing of back ends or programs. A [`Dataset`] is a data file with random access to
//! its [`Example`]s through a small index, so that a file may be far larger than memory. A
//! [`Loader`] turns step numbers into [`Batch`]es by an [`Order`] that needs no state, and
//! [`Prefetch`] runs it ahead on a thread of its own.

mod batch;
mod chat;
mod cut;
mod error;
mod fingerprint;
#[cfg(test)]
mod fixtures;
mod loader;
mod order;
mod prefetch;
mod rows;
mod text;
mod texts;
mod tokenizer;

pub use batch::{Batch, Buckets};
pub use chat::{ChatTemplate, Conversation};
pub use error::DataError;
pub use fingerprint::Fingerprint;
pub use loader::{EvalBatches, Loader, LoaderOptions};
pub use order::Order;
pub use prefetch::Prefetch;
pub(crate) use tokenizer::write_side_files;
pub use tokenizer::{NewTokenizer, Tokenizer};

use chat::ChatEncoder;
use rows::RowFile;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use text::TextFile;

/// What a model sees at once: its inputs are all tokens but the last, its targets all but the
/// first.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// At most sequence length + 1.
    pub tokens: Vec<u32>,
    /// One for each target, so one fewer than tokens: 1.0 where it counts in the loss, else 0.0.
    pub weights: Vec<f32>,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

impl Example {
    /// The first `limit` of `tokens`; targets before token `first_target` do not count.
    fn cut(mut tokens: Vec<u32>, first_target: usize, limit: usize) -> Example {
        let truncated = tokens.len() > limit;
        tokens.truncate(limit);
        let weights = (1..tokens.len()).map(|i| if i >= first_target { 1.0 } else { 0.0 }).collect();
        Example { tokens, weights, truncated }
    }

    /// The number of input positions.
    pub fn inputs(&self) -> usize {
        self.weights.len()
    }

    /// The number of targets that count.
    pub fn targets(&self) -> u64 {
        self.weights.iter().filter(|&&weight| weight > 0.0).count() as u64
    }
}

/// A data file and how to make examples of it.
///
/// Files named `.jsonl`, `.ndjson` or `.json` hold rows, one JSON object a line: `{"text"}`,
/// `{"prompt", "completion"}` with the loss on the completion, or `{"messages"}` with the loss on
/// what the assistant says; a file may mix them. Every row is an example. Any other file is plain text: one document, cut into consecutive windows of
/// sequence length + 1 tokens; the last may be shorter, down to two.
///
/// Opening reads the file once and checks all of it, so that a bad row at line 1,000,000 is an
/// error before training starts. After that, memory holds a sparse index and, for plain text, the
/// tokens of a few recently used pieces.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    source: Source,
    tokenizer: Tokenizer,
    seq_len: usize,
    drawn: Counters,
}

#[derive(Debug)]
enum Source {
    Rows(RowFile),
    Text(TextFile),
}

#[derive(Debug, Default)]
struct Counters {
    examples: AtomicU64,
    truncated: AtomicU64,
    without_targets: AtomicU64,
    /// 0 for none.
    first_line_without_targets: AtomicU64,
}

/// What became of the examples that were drawn so far; an example drawn again counts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skipped {
    pub examples: u64,
    /// Longer than sequence length + 1, so cut.
    pub truncated: u64,
    /// Kept in their place but without weight: no target is left within the sequence length.
    pub without_targets: u64,
    /// The line of the first such row, from 1.
    pub first_line: Option<u64>,
}

impl Dataset {
    /// `seq_len` is the largest number of inputs of an example.
    pub fn open(path: &Path, tokenizer: &Tokenizer, seq_len: usize) -> Result<Dataset, DataError> {
        Self::open_chat(path, tokenizer, None, seq_len)
    }

    /// Whether there is a file at `path`, which is not opened.
    ///
    /// # Errors
    /// There is none, or something else.
    pub fn check_is_file(path: &Path) -> Result<(), DataError> {
        let metadata = std::fs::metadata(path).map_err(|source| DataError::Io {
            action: "open",
            path: path.into(),
            source,
        })?;
        match metadata.is_file() {
            true => Ok(()),
            false => Err(DataError::NotAFile { path: path.into() }),
        }
    }

    /// The same, with a template for rows that are conversations; without one such a row is an error.
    pub fn open_chat(
        path: &Path,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        seq_len: usize,
    ) -> Result<Dataset, DataError> {
        if seq_len == 0 {
            return Err(DataError::NotPositive { name: "the sequence length", value: 0 });
        }
        Self::check_is_file(path)?;
        let source = if holds_rows(path) {
            let chat = template.map(|template| ChatEncoder::new(template, tokenizer)).transpose()?;
            Source::Rows(RowFile::open_chat(path, chat, seq_len + 1)?)
        } else {
            Source::Text(TextFile::open(path, tokenizer, seq_len + 1)?)
        };
        let (path, tokenizer) = (path.into(), tokenizer.clone());
        Ok(Dataset { path, source, tokenizer, seq_len, drawn: Counters::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Examples an epoch, at least 1.
    #[allow(clippy::len_without_is_empty)] // a file without examples is refused
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Rows(rows) => rows.len(),
            Source::Text(text) => text.len(),
        }
    }

    /// Example `index` (from 0) in the file's order.
    pub fn example(&self, index: u64) -> Result<Example, DataError> {
        if index >= self.len() {
            return Err(DataError::NoSuchExample { path: self.path.clone(), index, len: self.len() });
        }
        let (example, line) = match &self.source {
            Source::Rows(rows) => rows.example(index, &self.tokenizer, self.seq_len + 1)?,
            Source::Text(text) => (text.example(index)?, 0),
        };
        self.drawn.count(&example, line);
        Ok(example)
    }

    /// Whether rows of it are conversations.
    pub fn has_chat(&self) -> bool {
        matches!(&self.source, Source::Rows(rows) if rows.has_chat())
    }

    /// What was cut off or left without a target among the examples drawn so far.
    pub fn skipped(&self) -> Skipped {
        let first_line = self.drawn.first_line_without_targets.load(Relaxed);
        Skipped {
            examples: self.drawn.examples.load(Relaxed),
            truncated: self.drawn.truncated.load(Relaxed),
            without_targets: self.drawn.without_targets.load(Relaxed),
            first_line: (first_line > 0).then_some(first_line),
        }
    }
}

impl Counters {
    fn count(&self, example: &Example, line: u64) {
        self.examples.fetch_add(1, Relaxed);
        if example.truncated {
            self.truncated.fetch_add(1, Relaxed);
        }
        if example.targets() == 0 {
            self.without_targets.fetch_add(1, Relaxed);
            // Only the first one is kept; that another was there before is no failure.
            let _ = self.first_line_without_targets.compare_exchange(0, line, Relaxed, Relaxed);
        }
    }
}

fn holds_rows(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    ["jsonl", "ndjson", "json"].contains(&extension.as_str())
}

#[cfg(test)]
mod tests;

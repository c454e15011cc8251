//! Plain text files: windows of tokens read on demand.

mod blocks;
mod pieces;
mod source;

use super::{DataError, Example, tokenizer::Tokenizer};
pub(super) use blocks::TextBlocks;
use pieces::{Cutting, Encoder, PieceIndex};
use source::TextSource;
use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Tokens of recently used pieces that are kept: 64 MiB.
const CACHED_TOKENS: usize = 16 << 20;

/// An indexed text file: the tokenizer's opening tokens, the text's, and the closing ones, in
/// consecutive windows.
#[derive(Debug)]
pub(super) struct TextFile {
    source: TextSource,
    tokenizer: Tokenizer,
    cutting: Cutting,
    index: PieceIndex,
    closing: Vec<u32>,
    /// Tokens of a window.
    window: u64,
    windows: u64,
    cache: Mutex<Cache>,
}

impl TextFile {
    /// Reads and tokenizes the file once, counting tokens; `window` is in tokens.
    pub fn open(path: &Path, tokenizer: &Tokenizer, window: usize) -> Result<TextFile, DataError> {
        Self::open_with(path, tokenizer, window, Cutting::DEFAULT, CACHED_TOKENS)
    }

    fn open_with(
        path: &Path,
        tokenizer: &Tokenizer,
        window: usize,
        cutting: Cutting,
        cached_tokens: usize,
    ) -> Result<TextFile, DataError> {
        let source = TextSource::open(path)?;
        if source.begin == source.end {
            return Err(DataError::Empty { path: path.into(), reason: "it has no text" });
        }
        let mut cache = Cache { pieces: VecDeque::new(), held: 0, limit: cached_tokens };
        let mut last = None;
        let mut piece = 0;
        let index = Encoder { source: &source, tokenizer, cutting }.index(|encoded| {
            // A file that fits is tokenized only this once.
            cache.fill(piece, &encoded.ids);
            last = encoded.ids.last().copied().or(last);
            piece += 1;
        })?;
        let closing = tokenizer.closing(last);
        let total = tokenizer.prefix().len() as u64 + index.total() + closing.len() as u64;
        let window = window as u64;
        let windows = total / window + u64::from(total % window >= 2);
        if windows == 0 {
            let reason = "it has a single token, which has nothing to follow it";
            return Err(DataError::Empty { path: path.into(), reason });
        }
        let (tokenizer, cache) = (tokenizer.clone(), Mutex::new(cache));
        Ok(TextFile { source, tokenizer, cutting, index, closing, window, windows, cache })
    }

    pub fn len(&self) -> u64 {
        self.windows
    }

    pub fn example(&self, index: u64) -> Result<Example, DataError> {
        let start = index * self.window;
        let limit = self.window as usize;
        Ok(Example::cut(self.stream(start, start + self.window)?, 1, limit))
    }

    /// Tokens `start..end` of the file's whole stream, fewer where it ends.
    fn stream(&self, start: u64, end: u64) -> Result<Vec<u32>, DataError> {
        let prefix = self.tokenizer.prefix();
        let text_start = prefix.len() as u64;
        let text_end = text_start + self.index.total();
        let mut tokens = part(prefix, 0, start, end).to_vec();
        let mut at = start.max(text_start);
        while at < end.min(text_end) {
            let piece = self.index.piece_of(at - text_start);
            let ids = self.piece(piece)?;
            let first = text_start + self.index.tokens[piece];
            tokens.extend_from_slice(part(&ids, first, at, end));
            at = first + ids.len() as u64;
        }
        tokens.extend_from_slice(part(&self.closing, text_end, start, end));
        Ok(tokens)
    }

    fn piece(&self, piece: usize) -> Result<Arc<Vec<u32>>, DataError> {
        // A thread that panicked while it held the lock leaves the cache whole.
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ids) = lock().get(piece) {
            return Ok(ids);
        }
        let encoder = Encoder { source: &self.source, tokenizer: &self.tokenizer, cutting: self.cutting };
        let (start, end) = (self.index.bytes[piece], self.index.bytes[piece + 1]);
        let ids = Arc::new(encoder.encode(start, end)?.ids);
        let expected = self.index.tokens[piece + 1] - self.index.tokens[piece];
        if ids.len() as u64 != expected {
            let what = format!("bytes {start}..{end} had {expected} tokens and have {}", ids.len());
            return Err(self.source.changed(what));
        }
        lock().put(piece, ids.clone());
        Ok(ids)
    }
}

/// The part of `tokens`, which stand at `first..` in a stream, that lies in `start..end`.
fn part(tokens: &[u32], first: u64, start: u64, end: u64) -> &[u32] {
    let clamp = |at: u64| at.saturating_sub(first).min(tokens.len() as u64) as usize;
    &tokens[clamp(start)..clamp(end)]
}

/// Tokens of the pieces used last, the least recent first.
#[derive(Debug)]
struct Cache {
    pieces: VecDeque<(usize, Arc<Vec<u32>>)>,
    held: usize,
    limit: usize,
}

impl Cache {
    fn get(&mut self, piece: usize) -> Option<Arc<Vec<u32>>> {
        let at = self.pieces.iter().position(|(held, _)| *held == piece)?;
        let entry = self.pieces.remove(at)?;
        let ids = entry.1.clone();
        self.pieces.push_back(entry);
        Some(ids)
    }

    fn put(&mut self, piece: usize, ids: Arc<Vec<u32>>) {
        // Another thread may have encoded the same piece meanwhile.
        if self.get(piece).is_some() {
            return;
        }
        self.held += ids.len();
        self.pieces.push_back((piece, ids));
        while self.held > self.limit && self.pieces.len() > 1 {
            self.held -= self.pieces.pop_front().map_or(0, |(_, ids)| ids.len());
        }
    }

    /// Takes a piece only if there is room.
    fn fill(&mut self, piece: usize, ids: &[u32]) {
        if self.held + ids.len() <= self.limit {
            self.put(piece, Arc::new(ids.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests;

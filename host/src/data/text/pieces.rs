//! A long text, tokenized piece by piece with the tokens of the whole.
//!
//! Pieces are cut between words where that is possible. Each is encoded with some of the text
//! on both sides as context, and keeps the tokens that begin inside it. That the cut changed
//! nothing is not assumed: around every cut, the two encodings that see it must agree token by
//! token, else the pieces are joined.

use super::super::{DataError, cut, tokenizer::Tokenizer};
use super::source::TextSource;
use rayon::prelude::*;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutting {
    /// A text up to this size is one piece.
    pub whole: u64,
    /// The usual size of a piece; the last may be half as large again.
    pub piece: u64,
    /// Text on each side that is encoded along; half of it is compared between neighbours.
    pub context: u64,
    /// Pieces are joined up to this size.
    pub largest: u64,
}

impl Cutting {
    pub const DEFAULT: Cutting =
        Cutting { whole: 1 << 20, piece: 32 << 10, context: 1 << 10, largest: 4 << 20 };
}

/// Where each piece begins, in bytes of the file and in tokens of the text; the last entry is
/// the end. 16 bytes for every 32 KiB of text.
#[derive(Debug, Default)]
pub(super) struct PieceIndex {
    pub bytes: Vec<u64>,
    pub tokens: Vec<u64>,
}

impl PieceIndex {
    pub fn total(&self) -> u64 {
        self.tokens.last().copied().unwrap_or(0)
    }

    /// The piece that holds token `at`, which is less than the total.
    pub fn piece_of(&self, at: u64) -> usize {
        self.tokens.partition_point(|&first| first <= at) - 1
    }
}

pub(super) struct Encoded {
    start: u64,
    end: u64,
    pub ids: Vec<u32>,
    /// Tokens around the start and the end, each with its place in the file.
    head: Vec<(u64, u32)>,
    tail: Vec<(u64, u32)>,
}

#[derive(Clone, Copy)]
pub(super) struct Encoder<'a> {
    pub source: &'a TextSource,
    pub tokenizer: &'a Tokenizer,
    pub cutting: Cutting,
}

impl Encoder<'_> {
    /// Tokenizes the whole text on all cores, and hands over each piece in order.
    pub fn index(&self, mut piece: impl FnMut(&Encoded)) -> Result<PieceIndex, DataError> {
        let mut index = PieceIndex { bytes: vec![self.source.begin], tokens: vec![0] };
        let mut done = |encoded: &Encoded| {
            index.bytes.push(encoded.end);
            index.tokens.push(index.total() + encoded.ids.len() as u64);
            piece(encoded);
        };
        let mut open: Option<Encoded> = None;
        let mut at = self.source.begin;
        while at < self.source.end {
            let wave = self.wave(&mut at)?;
            let wave: Vec<Result<Encoded, DataError>> =
                wave.into_par_iter().map(|(start, end)| self.encode(start, end)).collect();
            for next in wave {
                let next = next?;
                open = Some(match open.take() {
                    None => next,
                    Some(before) if before.tail == next.head => {
                        done(&before);
                        next
                    }
                    Some(before) => self.join(before.start, next.end)?,
                });
            }
        }
        open.iter().for_each(done);
        Ok(index)
    }

    /// The next few pieces from `at`, enough to keep all cores busy.
    fn wave(&self, at: &mut u64) -> Result<Vec<(u64, u64)>, DataError> {
        let mut wave = vec![];
        while *at < self.source.end && wave.len() < 4 * rayon::current_num_threads() {
            let end = self.next_cut(*at)?;
            wave.push((*at, end));
            *at = end;
        }
        Ok(wave)
    }

    fn join(&self, start: u64, end: u64) -> Result<Encoded, DataError> {
        if end - start > self.cutting.largest {
            let path = self.source.path.clone();
            return Err(DataError::NoCut { path, offset: start, bytes: end - start });
        }
        self.encode(start, end)
    }

    /// Where the piece that begins at `start` ends.
    fn next_cut(&self, start: u64) -> Result<u64, DataError> {
        let Cutting { whole, piece, .. } = self.cutting;
        let text_end = self.source.end;
        let rest = text_end - start;
        if rest <= piece + piece / 2 || (start == self.source.begin && rest <= whole) {
            return Ok(text_end);
        }
        // One character before the window tells whether a word ends at its first place.
        let (begin, window) = self.source.text_around(start + piece - 1, start + piece + piece / 4)?;
        let first = window.chars().next().map_or(0, char::len_utf8);
        let cut = cut::word_border(&window, first).or_else(|| cut::line_border(&window, first));
        Ok(begin + cut.unwrap_or(first) as u64)
    }

    /// Encodes the piece `start..end`, both of them char boundaries.
    pub fn encode(&self, start: u64, end: u64) -> Result<Encoded, DataError> {
        let Cutting { context, .. } = self.cutting;
        let left = start.saturating_sub(context).max(self.source.begin);
        let right = end.saturating_add(context).min(self.source.end);
        let (base, text) = self.source.text_around(left, right)?;
        let tokens = self.tokenizer.tokens(&text).map_err(|reason| DataError::Encode {
            reason: format!("{}, bytes {start}..{end}: {reason}", self.source.path.display()),
        })?;
        let last = end == self.source.end;
        let (mut ids, mut head, mut tail) = (vec![], vec![], vec![]);
        for token in tokens {
            let at = base + token.start as u64;
            if at >= start && (at < end || last) {
                ids.push(token.id);
            }
            if at.abs_diff(start) < context / 2 {
                head.push((at, token.id));
            }
            if at.abs_diff(end) < context / 2 {
                tail.push((at, token.id));
            }
        }
        Ok(Encoded { start, end, ids, head, tail })
    }
}

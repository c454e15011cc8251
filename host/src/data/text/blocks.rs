//! The text of a plain text file in blocks, one after the other.

use super::{DataError, TextSource};
use std::path::Path;

/// Bytes of a block, about.
const BLOCK: u64 = 1 << 20;

/// A plain text file from begin to end.
pub(in crate::data) struct TextBlocks {
    source: TextSource,
    at: u64,
    block: u64,
}

impl TextBlocks {
    pub fn open(path: &Path) -> Result<TextBlocks, DataError> {
        Self::open_with(path, BLOCK)
    }

    fn open_with(path: &Path, block: u64) -> Result<TextBlocks, DataError> {
        let source = TextSource::open(path)?;
        Ok(TextBlocks { at: source.begin, source, block })
    }

    /// The next block, or `None` at the end. It ends before its last whitespace, if that is not all it has: words
    /// stay whole.
    pub fn next(&mut self) -> Result<Option<String>, DataError> {
        if self.at >= self.source.end {
            return Ok(None);
        }
        let end = (self.at + self.block).min(self.source.end);
        let (_, mut text) = self.source.text_around(self.at, end)?;
        if self.at + (text.len() as u64) < self.source.end {
            let border = text.rfind(char::is_whitespace).filter(|&border| border > 0);
            text.truncate(border.unwrap_or(text.len()));
        }
        self.at += text.len() as u64;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Whatever the size of a block: nothing is lost, and a word is not cut where there is a space in reach.
    #[test]
    fn blocks_are_the_whole_text_in_whole_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let text = "é one twö  three\n\nfour é";
        fs::write(&path, format!("\u{feff}{text}")).unwrap();
        for block in 1..40 {
            let mut blocks = TextBlocks::open_with(&path, block).unwrap();
            let mut all: Vec<String> = vec![];
            while let Some(part) = blocks.next().unwrap() {
                all.push(part);
            }
            assert_eq!(all.concat(), text, "{block}");
            if block >= 8 {
                let cut = all.windows(2).find(|pair| !pair[1].starts_with(char::is_whitespace));
                assert!(cut.is_none(), "{block}: {all:?}");
            }
        }
    }
}

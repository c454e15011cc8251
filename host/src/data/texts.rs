//! The text of a data file from begin to end, for what needs no examples.

use super::{DataError, holds_rows, rows::RowTexts, text::TextBlocks};
use std::path::Path;

/// Texts in the order of a file: of each row (prompt and completion are one), or blocks of plain text that end
/// between words.
pub(super) enum Texts {
    Rows(RowTexts),
    Blocks(TextBlocks),
}

impl Texts {
    pub fn open(path: &Path) -> Result<Texts, DataError> {
        let metadata = std::fs::metadata(path).map_err(|source| DataError::Io {
            action: "open",
            path: path.into(),
            source,
        })?;
        if !metadata.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        Ok(match holds_rows(path) {
            true => Texts::Rows(RowTexts::open(path)?),
            false => Texts::Blocks(TextBlocks::open(path)?),
        })
    }

    /// The next text, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<String>, DataError> {
        match self {
            Texts::Rows(rows) => rows.next(),
            Texts::Blocks(blocks) => blocks.next(),
        }
    }
}

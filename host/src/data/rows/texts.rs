//! The texts of a JSONL file, one after the other.

use super::{DataError, LONGEST_LINE, LineReader, READ_BUFFER, Row, next_row, parse, refuse};
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

/// What a model would see of each row, in the order of the file.
pub(in crate::data) struct RowTexts {
    path: PathBuf,
    lines: LineReader<BufReader<File>>,
}

impl RowTexts {
    pub fn open(path: &Path) -> Result<RowTexts, DataError> {
        let open = |source| DataError::Io { action: "open", path: path.into(), source };
        let file = BufReader::with_capacity(READ_BUFFER, File::open(path).map_err(open)?);
        Ok(RowTexts { path: path.into(), lines: LineReader::new(file, LONGEST_LINE) })
    }

    /// The next row's text, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<String>, DataError> {
        let Some(line) = next_row(&self.path, &mut self.lines, LONGEST_LINE)? else { return Ok(None) };
        let row = parse::parse(line.bytes).map_err(|fault| refuse(&self.path, line.number, fault))?;
        Ok(Some(match row {
            Row::Text(text) => text.into_owned(),
            Row::Pair { prompt, completion } => [prompt, completion].concat(),
            // What is said; how a template puts it is the same in every conversation.
            Row::Chat(conversation) => {
                let said =
                    conversation.messages.iter().filter_map(|message| message.get("content")?.as_str());
                said.collect::<Vec<_>>().join("\n")
            }
        }))
    }
}

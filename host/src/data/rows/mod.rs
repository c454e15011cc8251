//! JSONL files: rows read on demand through a sparse index of line offsets.

mod lines;
mod parse;
mod texts;

use super::{ChatEncoder, DataError, Example, tokenizer::Tokenizer};
use lines::{LineReader, Position, Read};
use parse::{Fault, Row};
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
pub(super) use texts::RowTexts;

/// A line longer than this is refused rather than read into memory.
const LONGEST_LINE: u64 = 256 << 20;
/// There is a mark at every so many rows, and one after every so many bytes.
const ROWS_A_MARK: u64 = 32;
const BYTES_A_MARK: u64 = 256 << 10;
const READ_BUFFER: usize = 64 << 10;
/// Conversations that are rendered on opening, to know of a template that does not fit the data before a run.
const RENDERED_ON_OPENING: u32 = 16;

/// An indexed JSONL file. Memory is 24 bytes for every 32 rows or 256 KiB, whatever the rows hold.
#[derive(Debug)]
pub(super) struct RowFile {
    path: PathBuf,
    rows: u64,
    /// In the order of the file; the first is row 0's.
    marks: Vec<Mark>,
    reader: Mutex<Reader>,
    longest_line: u64,
    chat: Option<ChatEncoder>,
    has_chat: bool,
}

/// Where a row begins (or the blank lines before it).
#[derive(Debug, Clone, Copy)]
struct Mark {
    row: u64,
    at: Position,
}

#[derive(Debug)]
struct Reader {
    file: File,
    /// Behind the row that was read last, so that reading in order seeks and skips nothing.
    next: Mark,
}

impl RowFile {
    /// Reads the file once from end to end, checks that every row parses, and marks offsets.
    #[cfg(test)]
    pub fn open(path: &Path) -> Result<RowFile, DataError> {
        Self::open_with(path, LONGEST_LINE, None, 2)
    }

    /// The same, with what conversations are encoded by; `limit` is in tokens.
    pub fn open_chat(path: &Path, chat: Option<ChatEncoder>, limit: usize) -> Result<RowFile, DataError> {
        Self::open_with(path, LONGEST_LINE, chat, limit)
    }

    fn open_with(
        path: &Path,
        longest_line: u64,
        chat: Option<ChatEncoder>,
        limit: usize,
    ) -> Result<RowFile, DataError> {
        let open = |source| DataError::Io { action: "open", path: path.into(), source };
        let file = File::open(path).map_err(open)?;
        let mut marks: Vec<Mark> = vec![];
        let mut rows = 0;
        let mut conversations = 0u32;
        let mut lines = LineReader::new(BufReader::with_capacity(READ_BUFFER, &file), longest_line);
        loop {
            let at = lines.position();
            let Some(line) = next_row(path, &mut lines, longest_line)? else { break };
            let row = parse::parse(line.bytes).map_err(|fault| refuse(path, line.number, fault))?;
            if let Row::Chat(conversation) = row {
                let Some(chat) = &chat else {
                    return Err(DataError::NoChatTemplate { path: path.into(), line: line.number });
                };
                if conversations < RENDERED_ON_OPENING {
                    let bad = |problem| DataError::BadConversation {
                        path: path.into(),
                        line: line.number,
                        problem,
                    };
                    chat.example(&conversation, limit).map_err(bad)?;
                }
                conversations = conversations.saturating_add(1);
            }
            let due = marks.last().is_none_or(|mark| {
                rows - mark.row >= ROWS_A_MARK || at.offset - mark.at.offset >= BYTES_A_MARK
            });
            if due {
                marks.push(Mark { row: rows, at });
            }
            rows += 1;
        }
        let Some(&next) = marks.first() else {
            return Err(DataError::Empty { path: path.into(), reason: "it has no rows" });
        };
        marks.shrink_to_fit();
        let reader = Mutex::new(Reader { file, next });
        Ok(RowFile {
            path: path.into(),
            rows,
            marks,
            reader,
            longest_line,
            chat,
            has_chat: conversations > 0,
        })
    }

    pub fn len(&self) -> u64 {
        self.rows
    }

    pub fn has_chat(&self) -> bool {
        self.has_chat
    }

    /// The tokens of row `index`, at most `limit`, and the row's line in the file.
    pub fn example(
        &self,
        index: u64,
        tokenizer: &Tokenizer,
        limit: usize,
    ) -> Result<(Example, u64), DataError> {
        let (line, bytes) = self.read(index)?;
        let row = parse::parse(&bytes).map_err(|_| self.changed(format!("line {line} was a row before")))?;
        // One more than the limit, to know whether something was cut off.
        let encoded = match &row {
            Row::Text(text) => tokenizer.text_example(text, limit + 1).map(|tokens| (tokens, 1)),
            Row::Pair { prompt, completion } => tokenizer.pair_example(prompt, completion, limit + 1),
            Row::Chat(conversation) => {
                let Some(chat) = &self.chat else {
                    return Err(DataError::NoChatTemplate { path: self.path.clone(), line });
                };
                let bad = |problem| DataError::BadConversation { path: self.path.clone(), line, problem };
                return Ok((chat.example(conversation, limit).map_err(bad)?, line));
            }
        };
        let (tokens, first_target) =
            encoded.map_err(|reason| DataError::EncodeRow { path: self.path.clone(), line, reason })?;
        Ok((Example::cut(tokens, first_target, limit), line))
    }

    /// The line number and the bytes of row `index`.
    fn read(&self, index: u64) -> Result<(u64, Vec<u8>), DataError> {
        let io = |source| DataError::Io { action: "read", path: self.path.clone(), source };
        // A thread that panicked while it held the lock leaves nothing half-done in here.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = self.marks[self.marks.partition_point(|mark| mark.row <= index).max(1) - 1];
        let from = if (mark.row..=index).contains(&reader.next.row) { reader.next } else { mark };
        let Reader { file, next } = &mut *reader;
        let buffered = BufReader::with_capacity(READ_BUFFER, &*file);
        let mut lines = LineReader::resume(buffered, self.longest_line, from.at).map_err(io)?;
        for _ in from.row..index {
            if next_row(&self.path, &mut lines, self.longest_line)?.is_none() {
                return Err(self.changed("it has fewer rows than before".into()));
            }
        }
        let Some(line) = next_row(&self.path, &mut lines, self.longest_line)? else {
            return Err(self.changed("it has fewer rows than before".into()));
        };
        let row = (line.number, line.bytes.to_vec());
        *next = Mark { row: index + 1, at: lines.position() };
        Ok(row)
    }

    fn changed(&self, what: String) -> DataError {
        DataError::Changed { path: self.path.clone(), what }
    }
}

struct Line<'a> {
    number: u64,
    bytes: &'a [u8],
}

/// The next line that is not blank.
fn next_row<'a, R: std::io::BufRead>(
    path: &Path,
    lines: &'a mut LineReader<R>,
    limit: u64,
) -> Result<Option<Line<'a>>, DataError> {
    loop {
        match lines.read() {
            Err(source) => return Err(DataError::Io { action: "read", path: path.into(), source }),
            Ok(Read::End) => return Ok(None),
            Ok(Read::TooLong) => {
                let line = lines.position().line;
                return Err(DataError::LineTooLong { path: path.into(), line, limit });
            }
            Ok(Read::Line) if parse::is_blank(lines.line()) => {}
            Ok(Read::Line) => break,
        }
    }
    Ok(Some(Line { number: lines.position().line, bytes: lines.line() }))
}

fn refuse(path: &Path, line: u64, fault: Fault) -> DataError {
    let path = path.into();
    match fault {
        Fault::Array => DataError::JsonArray { path, line },
        Fault::Other(problem) => DataError::BadRow { path, line, problem },
    }
}

#[cfg(test)]
mod tests;

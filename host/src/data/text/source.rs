//! Reading stretches of a plain text file.

use super::super::DataError;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A UTF-8 file, read in stretches. Offsets are bytes from the start of the file.
#[derive(Debug)]
pub(super) struct TextSource {
    pub path: PathBuf,
    /// Where the text begins: behind a byte-order mark.
    pub begin: u64,
    pub end: u64,
    file: Mutex<File>,
}

impl TextSource {
    pub fn open(path: &Path) -> Result<TextSource, DataError> {
        let io = |source| DataError::Io { action: "open", path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let end = file.metadata().map_err(io)?.len();
        let mut source = TextSource { path: path.into(), begin: 0, end, file: Mutex::new(file) };
        if source.bytes(0, 3.min(end))? == BYTE_ORDER_MARK {
            source.begin = 3;
        }
        Ok(source)
    }

    /// The text of about `start..end`: an end within a character moves outward to its border.
    /// Returns where the text begins, too.
    pub fn text_around(&self, start: u64, end: u64) -> Result<(u64, String), DataError> {
        let (from, to) = (start.saturating_sub(3).max(self.begin), end.saturating_add(3).min(self.end));
        let bytes = self.bytes(from, to)?;
        let continues = |at: u64| bytes.get((at - from) as usize).is_some_and(|b| b & 0xC0 == 0x80);
        let start = (from..=start).rev().find(|&at| !continues(at)).unwrap_or(start);
        let end = (end..=to).find(|&at| !continues(at)).unwrap_or(end);
        let text = bytes[(start - from) as usize..(end - from) as usize].to_vec();
        let text = String::from_utf8(text)
            .map_err(|e| self.not_utf8(start + e.utf8_error().valid_up_to() as u64))?;
        Ok((start, text))
    }

    fn bytes(&self, start: u64, end: u64) -> Result<Vec<u8>, DataError> {
        // A thread that panicked while it held the lock leaves only a seek position behind.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; (end - start) as usize];
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes));
        match read {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.changed("it became shorter".into()))
            }
            Err(source) => Err(DataError::Io { action: "read", path: self.path.clone(), source }),
        }
    }

    pub fn changed(&self, what: String) -> DataError {
        DataError::Changed { path: self.path.clone(), what }
    }

    fn not_utf8(&self, offset: u64) -> DataError {
        match self.line_of(offset) {
            Ok(line) => DataError::NotUtf8 { path: self.path.clone(), line, offset },
            Err(error) => error,
        }
    }

    /// The number, from 1, of the line that holds byte `offset`.
    fn line_of(&self, offset: u64) -> Result<u64, DataError> {
        const BLOCK: u64 = 1 << 20;
        let mut line = 1;
        let mut at = 0;
        while at < offset {
            let end = (at + BLOCK).min(offset);
            line += self.bytes(at, end)?.iter().filter(|&&b| b == b'\n').count() as u64;
            at = end;
        }
        Ok(line)
    }
}

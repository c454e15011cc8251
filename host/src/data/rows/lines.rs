//! Lines of a file with their numbers and offsets, none longer than a limit.

use std::io::{self, BufRead, Read as _, Seek, SeekFrom};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Bytes read so far.
    pub offset: u64,
    /// Lines read so far, which is also the number (from 1) of the line read last.
    pub line: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A line stands in [`LineReader::line`].
    Line,
    /// The line is over the limit; what follows it cannot be read.
    TooLong,
    End,
}

pub(super) struct LineReader<R> {
    reader: R,
    limit: u64,
    at: Position,
    buffer: Vec<u8>,
}

impl<R: BufRead> LineReader<R> {
    /// `limit` is in bytes, line end not counted.
    pub fn new(reader: R, limit: u64) -> Self {
        LineReader { reader, limit, at: Position::default(), buffer: vec![] }
    }

    pub fn position(&self) -> Position {
        self.at
    }

    /// The line read last, without its line end and without a byte-order mark.
    pub fn line(&self) -> &[u8] {
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.at.line == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line }
    }

    pub fn read(&mut self) -> io::Result<Read> {
        self.buffer.clear();
        // The limit and a line end of two bytes: what is longer is never held in memory.
        let read = (&mut self.reader).take(self.limit + 2).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(Read::End);
        }
        self.at.offset += read as u64;
        self.at.line += 1;
        Ok(if self.line().len() as u64 > self.limit { Read::TooLong } else { Read::Line })
    }
}

impl<R: BufRead + Seek> LineReader<R> {
    /// Goes on where an earlier reader was.
    pub fn resume(mut reader: R, limit: u64, at: Position) -> io::Result<Self> {
        reader.seek(SeekFrom::Start(at.offset))?;
        Ok(LineReader { reader, limit, at, buffer: vec![] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &[u8], limit: u64) -> (Vec<Vec<u8>>, Read) {
        let mut reader = LineReader::new(content, limit);
        let mut lines = vec![];
        loop {
            match reader.read().unwrap() {
                Read::Line => lines.push(reader.line().to_vec()),
                other => return (lines, other),
            }
        }
    }

    #[test]
    fn line_ends_and_the_byte_order_mark_are_no_content() {
        let (read, end) = lines(b"\xef\xbb\xbfa\r\n\nb\n\xef\xbb\xbfc", 10);
        assert_eq!(read, [b"a".to_vec(), vec![], b"b".to_vec(), b"\xef\xbb\xbfc".to_vec()]);
        assert_eq!(end, Read::End);
    }

    #[test]
    fn a_line_at_the_limit_is_read_and_one_over_it_is_not() {
        assert_eq!(lines(b"1234\r\n", 4), (vec![b"1234".to_vec()], Read::End));
        assert_eq!(lines(b"1234", 4), (vec![b"1234".to_vec()], Read::End));
        assert_eq!(lines(b"12345\n", 4), (vec![], Read::TooLong));
        assert_eq!(lines(b"12345", 4), (vec![], Read::TooLong));
        let long = vec![b'x'; 1000];
        let mut reader = LineReader::new(&long[..], 4);
        assert_eq!(reader.read().unwrap(), Read::TooLong);
        assert!(reader.buffer.len() <= 6, "no more than the limit is held");
    }
}

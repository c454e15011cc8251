//! Reading from bytes that may end anywhere.

/// The longest header that is believed. Those of real models have up to some ten million bytes, nearly all of
/// them the tokenizer's.
const MAX_HEADER_BYTES: usize = 256 << 20;

/// A place in a file. Every read is checked against what is there; an error says the byte it is about.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    cut: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        let cut = file.len() > MAX_HEADER_BYTES;
        Self { bytes: &file[..file.len().min(MAX_HEADER_BYTES)], at: 0, cut }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(count).ok().and_then(|count| rest.get(..count)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None if self.cut => Err(format!(
                "{count} bytes from byte {} on would make its header longer than {MAX_HEADER_BYTES} bytes, which \
                 none is; the file is damaged",
                self.at
            )),
            None => Err(format!(
                "{count} bytes are expected from byte {} on, and the file ends after {}; it is cut off, download it \
                 again",
                self.at,
                rest.len()
            )),
        }
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text: its length in bytes, then UTF-8.
    pub(super) fn text(&mut self) -> Result<String, String> {
        let at = self.at;
        let length = self.u64()?;
        // Copied before it is looked at, so that what is checked is what is used even if the file changes.
        String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }
}

//! The header of a GGUF file: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! A file is: `GGUF`, the version, the numbers of tensors and of metadata keys; the metadata; the tensors'
//! descriptions; padding; the tensors, each at a multiple of the alignment.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kind::{self, Kind};
use super::metadata::Metadata;
use super::reader::Reader;
use super::value::Value;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
/// ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;
/// What the format allows to keys; names of tensors may not be longer here either.
const MAX_NAME: usize = (1 << 16) - 1;

/// All that a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, Tensor>,
}

/// One tensor, as the header describes it.
#[derive(Debug)]
pub(super) struct Tensor {
    pub kind: &'static Kind,
    /// Outermost first: the file has them the other way round.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub bytes: Range<usize>,
}

/// Reads and checks the header of `file`, the whole content of a GGUF file.
///
/// # Errors
/// A sentence (without the file's name) for everything that is not as the format says. What it allocates is
/// bounded by the header that is really there.
pub(super) fn parse(file: &[u8]) -> Result<Header, String> {
    let mut reader = Reader::new(file);
    check_start(&mut reader, file)?;
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    let metadata = read_metadata(&mut reader, keys)?;
    let alignment = match metadata.whole(ALIGNMENT)?.unwrap_or(32) {
        alignment @ 8..=0x10_0000 if alignment.is_power_of_two() => alignment as usize,
        other => return Err(format!("{ALIGNMENT} is {other}; expected a power of two from 8 to 2^20")),
    };
    let mut found: Vec<(String, &'static Kind, Vec<usize>, u64, usize)> = Vec::new();
    for number in 0..tensors {
        let at = reader.at();
        let described = read_tensor(&mut reader)
            .map_err(|problem| format!("tensor {number} of {tensors}, described at byte {at}: {problem}"))?;
        let (name, kind, shape, offset) = described;
        let size =
            byte_size(kind, &shape).map_err(|problem| format!("tensor {name} (byte {at}) {problem}"))?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(format!(
                "tensor {name} (byte {at}) begins {offset} bytes into the data, which is no multiple of the \
                 alignment, {alignment}"
            ));
        }
        found.push((name, kind, shape, offset, size));
    }
    let start = reader.at().next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, kind, shape, offset, size) in found {
        let begin = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(start));
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(size)?));
        let bytes = range.filter(|range| range.end <= file.len()).ok_or_else(|| {
            format!(
                "tensor {name} has {size} bytes from byte {offset} of the data on, and the data ends after {}; the \
                 file is cut off, download it again",
                file.len().saturating_sub(start)
            )
        })?;
        if tensors.contains_key(&name) {
            return Err(format!("there are two tensors called {name}"));
        }
        tensors.insert(name, Tensor { kind, shape, bytes });
    }
    check_overlaps(&tensors)?;
    Ok(Header { metadata, tensors })
}

fn check_start(reader: &mut Reader<'_>, file: &[u8]) -> Result<(), String> {
    if !file.starts_with(MAGIC) {
        return Err("it does not begin with the letters GGUF, so it is another kind of file; if it was \
                    downloaded, look whether it is a web page or a pointer of git's large file storage"
            .into());
    }
    reader.take(MAGIC.len() as u64)?;
    match reader.u32()? {
        2 | 3 => Ok(()),
        1 => {
            Err("it has version 1 of the format, which is not read; make it again with a newer llama.cpp"
                .into())
        }
        other if (1..=0xffff).contains(&other.swap_bytes()) => {
            Err("it is written for big-endian machines; make it again for little-endian ones (llama.cpp's \
             gguf_convert_endian.py does it)"
                .into())
        }
        other => Err(format!("it has version {other} of the format; versions 2 and 3 are read")),
    }
}

fn read_metadata(reader: &mut Reader<'_>, keys: u64) -> Result<Metadata, String> {
    let mut metadata = Metadata::default();
    for number in 0..keys {
        let at = reader.at();
        let key = name(reader).map_err(|problem| format!("key {number} of {keys}: {problem}"))?;
        let value = Value::read(reader).map_err(|problem| format!("{key} (byte {at}): {problem}"))?;
        if !metadata.insert(&key, value) {
            return Err(format!("the key {key} comes twice, again at byte {at}"));
        }
    }
    Ok(metadata)
}

fn name(reader: &mut Reader<'_>) -> Result<String, String> {
    let at = reader.at();
    match reader.text()? {
        name if name.is_empty() => Err(format!("the name at byte {at} is empty")),
        name if name.len() > MAX_NAME => {
            Err(format!("the name at byte {at} has {} bytes; expected at most {MAX_NAME}", name.len()))
        }
        name => Ok(name),
    }
}

type Described = (String, &'static Kind, Vec<usize>, u64);

fn read_tensor(reader: &mut Reader<'_>) -> Result<Described, String> {
    let name = name(reader)?;
    let dimensions = reader.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(format!("{name} has {dimensions} dimensions; expected at most {MAX_DIMENSIONS}"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = reader.u64()?;
        shape.push(usize::try_from(size).map_err(|_| format!("{name} has a dimension of {size}"))?);
    }
    shape.reverse();
    let kind = kind::kind(reader.u32()?).map_err(|problem| format!("{name} {problem}"))?;
    Ok((name, kind, shape, reader.u64()?))
}

fn byte_size(kind: &Kind, shape: &[usize]) -> Result<usize, String> {
    let (width, outer) = match shape.split_last() {
        Some((width, outer)) => (*width, outer),
        None => (1, shape),
    };
    let rows = outer.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let size = rows
        .filter(|rows| rows.checked_mul(width).is_some())
        .ok_or_else(|| format!("claims the shape {shape:?}, which no file can hold"))?;
    kind.bytes(width, size)
}

/// Tensors may lie in any order and with gaps, but none in another.
fn check_overlaps(tensors: &BTreeMap<String, Tensor>) -> Result<(), String> {
    let mut in_order: Vec<_> = tensors.iter().filter(|(_, tensor)| !tensor.bytes.is_empty()).collect();
    in_order.sort_by_key(|(_, tensor)| tensor.bytes.start);
    match in_order.windows(2).find(|pair| pair[1].1.bytes.start < pair[0].1.bytes.end) {
        Some(pair) => Err(format!(
            "tensor {} begins at byte {}, inside tensor {}",
            pair[1].0, pair[1].1.bytes.start, pair[0].0
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;

//! The header of a safetensors file: read, checked against the file, and written.
//!
//! A file is: the header's length (8 bytes, little-endian), the header (a JSON object, padded with spaces),
//! then the bytes of all tensors, without gaps. The header maps each tensor's name to its dtype, shape and
//! `data_offsets` (first byte and the byte after the last, counted from the header's end); `__metadata__`
//! maps strings to strings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

use super::dtype::{StoredDType, WeightDType};
use super::json::{UniqueMap, strip_position};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

pub(super) const METADATA_KEY: &str = "__metadata__";

/// One tensor, as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub dtype: StoredDType,
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub bytes: Range<usize>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Reads and checks the header of `file`, the whole content of a safetensors file.
///
/// # Errors
/// A sentence (without the file's name) for everything that is not as the format says: cut header or data,
/// invalid JSON, a tensor twice, sizes that overflow or contradict shape and dtype, overlaps, gaps, bytes
/// after the last tensor. What it allocates is bounded by the header that is really there.
pub(super) fn parse(file: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(|| {
        format!("it has {} bytes, fewer than the 8 that say how long its header is", file.len())
    })?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "it says that its header is {length} bytes long, more than the format allows; it is another kind of \
             file, or damaged"
        ));
    }
    let length = length as usize;
    let header = rest.get(..length).ok_or_else(|| {
        format!(
            "its header should be {length} bytes long but the file ends after {}; it is cut off, download it again",
            rest.len()
        )
    })?;
    // The mapped bytes are copied, so that what is checked is what is used even if the file changes.
    let header = header.to_vec();
    let raw: UniqueMap<Value> = serde_json::from_slice(&header).map_err(|error| {
        format!(
            "its header is invalid at byte {}: {}",
            8 + error.column(),
            strip_position(&error.to_string())
        )
    })?;
    let data_start = 8 + length;
    let mut entries = BTreeMap::new();
    for (name, value) in raw.0 {
        if name == METADATA_KEY {
            serde_json::from_value::<BTreeMap<String, String>>(value)
                .map_err(|error| format!("its metadata is not a map of strings: {error}"))?;
            continue;
        }
        let raw: RawTensor = serde_json::from_value(value)
            .map_err(|error| format!("its header does not describe tensor {name}: {error}"))?;
        entries.insert(name.clone(), check_entry(&name, raw, data_start)?);
    }
    check_layout(&entries, data_start, file.len())?;
    Ok(entries)
}

fn check_entry(name: &str, raw: RawTensor, data_start: usize) -> Result<Entry, String> {
    let RawTensor { dtype, shape, data_offsets: [begin, end] } = raw;
    let dtype = StoredDType::parse(&dtype)
        .ok_or_else(|| format!("tensor {name} has the dtype {dtype:?}, which the format does not know"))?;
    let too_large = || format!("tensor {name} claims the shape {shape:?}, which no file can hold");
    let shape: Vec<usize> =
        shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let bits = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .and_then(|elements| elements.checked_mul(dtype.bits()))
        .ok_or_else(too_large)?;
    if bits % 8 != 0 {
        return Err(format!("tensor {name} of {dtype} and shape {shape:?} does not fill whole bytes"));
    }
    let size = bits / 8;
    if end.checked_sub(begin) != Some(size as u64) {
        return Err(format!(
            "tensor {name} of {dtype} and shape {shape:?} needs {size} bytes, but its data_offsets are [{begin}, {end}]"
        ));
    }
    let place = |offset: u64| usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data_start));
    match (place(begin), place(end)) {
        (Some(begin), Some(end)) => Ok(Entry { dtype, shape, bytes: begin..end }),
        _ => Err(format!("tensor {name} has the data_offsets [{begin}, {end}], which no file can hold")),
    }
}

/// Tensors must follow each other without gap or overlap, from the header's end to the file's.
fn check_layout(entries: &BTreeMap<String, Entry>, data_start: usize, file_len: usize) -> Result<(), String> {
    let mut in_order: Vec<_> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
    let mut expected = data_start;
    let mut previous = "the header";
    for (name, entry) in in_order {
        if entry.bytes.end > file_len {
            return Err(format!(
                "tensor {name} ends at byte {} but the file has {file_len}; it is cut off, download it again",
                entry.bytes.end
            ));
        }
        if entry.bytes.start < expected {
            return Err(format!("tensor {name} overlaps {previous}"));
        }
        if entry.bytes.start > expected {
            return Err(format!(
                "there is a gap of {} bytes before tensor {name}",
                entry.bytes.start - expected
            ));
        }
        expected = entry.bytes.end;
        previous = name;
    }
    if expected != file_len {
        return Err(format!("{} bytes after the last tensor belong to none", file_len - expected));
    }
    Ok(())
}

/// A header for `tensors`, laid out in the given order, with its length in front: the start of a file.
/// Also gives the first byte of each tensor and the length of the whole file.
///
/// # Errors
/// A sentence where a size overflows or the header would be longer than the format allows.
pub(super) fn build(
    tensors: &[(&str, WeightDType, &[usize])],
    metadata: &[(&str, &str)],
) -> Result<(Vec<u8>, Vec<u64>, u64), String> {
    let mut json = String::from("{");
    if !metadata.is_empty() {
        let map: serde_json::Map<_, _> = metadata.iter().map(|&(k, v)| (k.to_string(), v.into())).collect();
        let _ = write!(json, "{}:{}", quoted(METADATA_KEY), Value::Object(map));
    }
    let mut offsets = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for &(name, dtype, shape) in tensors {
        let size = byte_size(shape, dtype)
            .ok_or_else(|| format!("tensor {name} of shape {shape:?} is too large"))?;
        let end = offset.checked_add(size).ok_or_else(|| "the tensors are too large together".to_string())?;
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(
            json,
            "{comma}{}:{{\"dtype\":\"{dtype}\",\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            quoted(name),
            serde_json::json!(shape),
        );
        offsets.push(offset);
        offset = end;
    }
    json.push('}');
    // Padded to 8 bytes, so that every tensor starts at a multiple of its element's size.
    let length = json.len().next_multiple_of(8);
    if length as u64 > MAX_HEADER_BYTES {
        return Err(format!("its header would be {length} bytes long, more than the format allows"));
    }
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(8 + length, b' ');
    let start = bytes.len() as u64;
    let total = start.checked_add(offset).ok_or_else(|| "the tensors are too large together".to_string())?;
    offsets.iter_mut().for_each(|offset| *offset += start);
    Ok((bytes, offsets, total))
}

/// Bytes of a tensor; `None` on overflow.
pub(super) fn byte_size(shape: &[usize], dtype: WeightDType) -> Option<u64> {
    shape.iter().try_fold(dtype.size() as u64, |size, &dim| size.checked_mul(dim as u64))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;

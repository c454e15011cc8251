//! Changing the dtype of weights: F32, F16, BF16, F64 and quantized blocks to F32, F16 or BF16.
//!
//! Rounding is to nearest, ties to even; what is too large becomes infinity; NaN stays NaN. Bytes are
//! little-endian and need not be aligned, in and out.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::blocks::{self, BlockFormat};
use super::dtype::{Encoding, StoredDType, WeightDType};
use super::error::WeightsError;
use super::tensors::{RowOrder, TensorView};

/// Elements converted by one task: large enough to outweigh its scheduling, small enough for the caches.
const CHUNK: usize = 1 << 15;
/// Elements held as f32 on the stack between reading and writing.
const BLOCK: usize = 512;

/// All elements of `view` as `to`: `elements * to.size()` bytes.
///
/// # Errors
/// [`WeightsError::DType`] if the tensor's dtype cannot be read as weights.
pub fn convert(view: &TensorView, to: WeightDType) -> Result<Vec<u8>, WeightsError> {
    let mut out = Vec::new();
    convert_range(view, 0..view.elements(), to, &mut out)?;
    Ok(out)
}

/// The elements `range` (in row-major order) of `view` as `to`. `out` is replaced; its memory is reused, so
/// that a tensor can be uploaded in ranges through one buffer.
///
/// # Errors
/// [`WeightsError::DType`] if the dtype cannot be read as weights, [`WeightsError::Range`] if the tensor has
/// no such elements.
pub fn convert_range(
    view: &TensorView,
    range: Range<usize>,
    to: WeightDType,
    out: &mut Vec<u8>,
) -> Result<(), WeightsError> {
    if !view.encoding().is_convertible() {
        return Err(view.dtype_error());
    }
    let elements = view.elements();
    if range.start > range.end || range.end > elements {
        let (start, end) = (range.start, range.end);
        return Err(WeightsError::Range { name: view.name().to_string(), start, end, elements });
    }
    out.clear();
    if let Some((stored, bytes)) = view.as_stored()
        && stored == to
    {
        let size = to.size();
        out.extend_from_slice(&bytes.as_slice()[range.start * size..range.end * size]);
        return Ok(());
    }
    out.resize(range.len() * to.size(), 0);
    out.par_chunks_mut(CHUNK * to.size()).enumerate().for_each(|(chunk, out)| {
        let start = range.start + chunk * CHUNK;
        convert_rows(view, start..range.end.min(start + CHUNK), to, out);
    });
    Ok(())
}

/// The elements `range` of `view`, from wherever their rows are in the file.
fn convert_rows(view: &TensorView, range: Range<usize>, to: WeightDType, mut out: &mut [u8]) {
    let rows = view.shape().first().copied().unwrap_or(1).max(1);
    let width = match view.row_order() {
        RowOrder::AsStored => view.elements(),
        RowOrder::Pairs { .. } => view.elements() / rows,
    };
    let mut at = range.start;
    while at < range.end {
        let (row, column) = (at / width, at % width);
        let count = (width - column).min(range.end - at);
        let stored = view.row_order().stored(row) * width + column;
        let (now, rest) = out.split_at_mut(count * to.size());
        convert_run(view.bytes().as_slice(), view.encoding(), stored..stored + count, to, now);
        (at, out) = (at + count, rest);
    }
}

/// The elements `run` of all those in `bytes`.
fn convert_run(bytes: &[u8], encoding: Encoding, run: Range<usize>, to: WeightDType, out: &mut [u8]) {
    match encoding {
        Encoding::Plain(from) => {
            let size = from.bits() / 8;
            let bytes = &bytes[run.start * size..run.end * size];
            match from.as_weight() == Some(to) {
                true => out.copy_from_slice(bytes),
                false => convert_chunk(bytes, from, to, out),
            }
        }
        Encoding::Blocks(format) => dequantize(bytes, format, run, to, out),
    }
}

fn dequantize(bytes: &[u8], format: BlockFormat, run: Range<usize>, to: WeightDType, mut out: &mut [u8]) {
    let mut values = [0f32; BLOCK];
    let mut at = run.start;
    while at < run.end {
        // A run may begin and end within a block.
        let (first, skipped) = (at / blocks::BLOCK, at % blocks::BLOCK);
        let count = (BLOCK - skipped).min(run.end - at);
        let last = (at + count).div_ceil(blocks::BLOCK);
        let values = &mut values[..(last - first) * blocks::BLOCK];
        format.dequantize(&bytes[first * format.bytes()..last * format.bytes()], values);
        let (now, rest) = out.split_at_mut(count * to.size());
        write_block(&values[skipped..skipped + count], to, now);
        (at, out) = (at + count, rest);
    }
}

/// Converts the elements in `bytes` (not from a file: trained tensors on their way to one) from `from` to `to`.
/// `out` is replaced. Bytes at the end that fill no element are left out.
pub fn convert_bytes(bytes: &[u8], from: WeightDType, to: WeightDType, out: &mut Vec<u8>) {
    convert_slice(bytes, from.into(), to, out);
}

/// Rounds `values` to `to`, each once. `out` is replaced.
pub fn convert_values(values: &[f64], to: WeightDType, out: &mut Vec<u8>) {
    convert_slice(bytemuck::cast_slice(values), StoredDType::F64, to, out);
}

fn convert_slice(bytes: &[u8], from: StoredDType, to: WeightDType, out: &mut Vec<u8>) {
    let size = from.bits() / 8;
    let elements = bytes.len() / size;
    out.clear();
    if from.as_weight() == Some(to) {
        out.extend_from_slice(&bytes[..elements * size]);
        return;
    }
    out.resize(elements * to.size(), 0);
    out.par_chunks_mut(CHUNK * to.size())
        .zip(bytes[..elements * size].par_chunks(CHUNK * size))
        .for_each(|(out, bytes)| convert_chunk(bytes, from, to, out));
}

fn convert_chunk(bytes: &[u8], from: StoredDType, to: WeightDType, out: &mut [u8]) {
    let mut block = [0f32; BLOCK];
    let size = from.bits() / 8;
    for (out, bytes) in out.chunks_mut(BLOCK * to.size()).zip(bytes.chunks(BLOCK * size)) {
        let block = &mut block[..bytes.len() / size];
        read_block(bytes, from, to, block);
        write_block(block, to, out);
    }
}

fn read_block(bytes: &[u8], from: StoredDType, to: WeightDType, block: &mut [f32]) {
    match from {
        StoredDType::F64 => {
            for (value, bytes) in block.iter_mut().zip(bytes.as_chunks::<8>().0) {
                let wide = f64::from_le_bytes(*bytes);
                // Rounding to f32 and again to 16 bits could break a tie that was none.
                *value = if to == WeightDType::F32 { wide as f32 } else { round_to_odd(wide) };
            }
        }
        StoredDType::F16 => {
            read_halves(bytes, block, f16::from_bits, |halves, out| halves.convert_to_f32_slice(out))
        }
        StoredDType::BF16 => {
            read_halves(bytes, block, bf16::from_bits, |halves, out| halves.convert_to_f32_slice(out))
        }
        _ => {
            for (value, bytes) in block.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
    }
}

fn read_halves<H: Copy>(bytes: &[u8], block: &mut [f32], half: fn(u16) -> H, widen: fn(&[H], &mut [f32])) {
    let mut halves = [half(0); BLOCK];
    let halves = &mut halves[..block.len()];
    for (value, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = half(u16::from_le_bytes(*bytes));
    }
    widen(halves, block);
}

fn write_block(block: &[f32], to: WeightDType, out: &mut [u8]) {
    match to {
        WeightDType::F32 => {
            for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(block) {
                *bytes = value.to_le_bytes();
            }
        }
        WeightDType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..block.len()];
            halves.convert_from_f32_slice(block);
            for (bytes, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
                *bytes = value.to_le_bytes();
            }
        }
        WeightDType::BF16 => {
            for (bytes, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(block) {
                *bytes = bf16::from_f32(*value).to_le_bytes();
            }
        }
    }
}

/// `wide` as f32, where an inexact value takes the neighbour whose last bit is one. A second rounding to
/// nearest, to a type at least two bits narrower, then gives what rounding `wide` once would have given.
fn round_to_odd(wide: f64) -> f32 {
    let near = wide as f32;
    if f64::from(near) == wide || wide.is_nan() {
        return near;
    }
    let toward_zero = if f64::from(near).abs() > wide.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(toward_zero | 1)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;

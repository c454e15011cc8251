//! Rows by number, and blocks at positions that are known when a program runs.

use candle_core::{Result, Tensor};

use super::Step;
use crate::kernel::{self, Word};

/// Whole numbers, each at most `last`.
fn clamped(x: &Tensor, last: usize) -> Result<Tensor> {
    let last = Tensor::new(u32::try_from(last).unwrap_or(u32::MAX), x.device())?;
    kernel::words(Word::Min, &x.contiguous()?, &last.broadcast_as(x.dims())?)
}

pub fn gather(step: &Step) -> Result<Tensor> {
    let indices = clamped(step.operands[1], step.types[0].shape[0] - 1)?.flatten_all()?;
    let rows = step.operands[0].contiguous()?.index_select(&indices, 0)?;
    rows.reshape(step.results[0].shape.as_slice())
}

pub fn scatter_add(step: &Step) -> Result<Tensor> {
    let base = step.wide(0)?.contiguous()?;
    let indices = clamped(step.operands[1], step.types[0].shape[0] - 1)?.flatten_all()?;
    let mut rows = base.dims().to_vec();
    rows[0] = indices.elem_count();
    let updates = step.wide(2)?.contiguous()?.reshape(rows)?;
    step.narrow(0, &base.index_add(&indices, &updates, 0)?)
}

pub fn dynamic_slice(step: &Step) -> Result<Tensor> {
    let axis = step.attrs.get_int("axis");
    let size = step.results[0].shape[axis];
    let start = clamped(step.operands[1], step.types[0].shape[axis] - size)?;
    let indices = Tensor::arange(0, size as u32, step.placed)?;
    let indices = kernel::words(Word::Add, &indices, &start.broadcast_as(size)?)?;
    step.operands[0].contiguous()?.index_select(&indices, axis)
}

/// From base and update, one behind the other, by number.
pub fn update_slice(step: &Step) -> Result<Tensor> {
    let axis = step.attrs.get_int("axis");
    let (length, size) = (step.types[0].shape[axis], step.types[1].shape[axis]);
    let start = clamped(step.operands[2], length - size)?.broadcast_as(length)?;
    let places = Tensor::arange(0, length as u32, step.placed)?;
    // Wraps before `start`, to numbers that are no places in the update.
    let within = kernel::words(Word::Sub, &places, &start)?;
    let word = |number: usize| Tensor::new(number as u32, step.placed)?.broadcast_as(length);
    let updated = kernel::words(Word::Add, &within, &word(length)?)?;
    let indices = within.lt(&word(size)?)?.where_cond(&updated, &places)?;
    Tensor::cat(&[step.operands[0], step.operands[1]], axis)?.index_select(&indices, axis)
}

//! Rows by number, and blocks at positions that are known when a program runs.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::Op;

use super::{Step, elementwise};
use crate::kernel::{self, Numbers};

/// A whole number on the device, repeated.
fn word(step: &Step, number: usize, count: &[usize]) -> Result<Tensor> {
    Tensor::new(u32::try_from(number).unwrap_or(u32::MAX), step.placed)?.broadcast_as(count)
}

/// Whole numbers, each at most `last`.
fn clamped(step: &Step, operand: usize, last: usize) -> Result<Tensor> {
    let x = step.flat(operand)?;
    elementwise::words(Op::Min, &x, &word(step, last, x.dims())?)
}

pub fn gather(step: &Step) -> Result<Tensor> {
    let rows = step.types[0].shape[0];
    if step.is_cpu() {
        let indices = clamped(step, 1, rows - 1)?.flatten_all()?;
        let rows = step.operands[0].contiguous()?.index_select(&indices, 0)?;
        return rows.reshape(step.results[0].shape.as_slice());
    }
    let (table, indices, out) = (step.flat(0)?, step.flat(1)?, step.empty(0)?);
    let count = indices.elem_count();
    let numbers = Numbers::new(&[count, out.elem_count() / count, rows], &[]);
    let name = format!("gather_{}", 8 * out.dtype().size_in_bytes());
    let blocks = out.elem_count().div_ceil(kernel::THREADS);
    kernel::launch(&name, &[&table, &indices, &out], numbers, blocks, kernel::THREADS)?;
    Ok(out)
}

pub fn scatter_add(step: &Step) -> Result<Tensor> {
    let base = step.wide(0)?.contiguous()?;
    let indices = clamped(step, 1, step.types[0].shape[0] - 1)?.flatten_all()?;
    let mut rows = base.dims().to_vec();
    rows[0] = indices.elem_count();
    let updates = step.wide(2)?.contiguous()?.reshape(rows)?;
    step.narrow(0, &base.index_add(&indices, &updates, 0)?)
}

pub fn dynamic_slice(step: &Step) -> Result<Tensor> {
    let axis = step.attrs.get_int("axis");
    let size = step.results[0].shape[axis];
    let start = clamped(step, 1, step.types[0].shape[axis] - size)?;
    let indices = Tensor::arange(0, size as u32, step.placed)?;
    let indices = elementwise::words(Op::Add, &indices, &start.broadcast_as(size)?)?;
    step.operands[0].contiguous()?.index_select(&indices, axis)
}

/// From base and update, one behind the other, by number.
pub fn update_slice(step: &Step) -> Result<Tensor> {
    let axis = step.attrs.get_int("axis");
    let (length, size) = (step.types[0].shape[axis], step.types[1].shape[axis]);
    let start = clamped(step, 2, length - size)?.broadcast_as(length)?;
    let places = Tensor::arange(0, length as u32, step.placed)?;
    // Wraps before `start`, to numbers that are no places in the update.
    let within = elementwise::words(Op::Sub, &places, &start)?;
    let updated = elementwise::words(Op::Add, &within, &word(step, length, &[length])?)?;
    let indices = within.lt(&word(step, size, &[length])?)?.where_cond(&updated, &places)?;
    Tensor::cat(&[step.operands[0], step.operands[1]], axis)?.index_select(&indices, axis)
}

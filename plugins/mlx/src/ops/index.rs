//! Rows by number, and blocks at positions that are known when a program runs.

use finetune_plugin_api::export::Error;

use super::{Step, scalar_u32};
use crate::mlx::Array;

/// Indices, those beyond the table taken as the last.
fn clamped(step: &Step, operand: usize, rows: usize) -> Result<Array, Error> {
    let last = u32::try_from(rows - 1).unwrap_or(u32::MAX);
    step.mlx.minimum(step.operands[operand], &scalar_u32(last)?)
}

pub fn gather(step: &Step) -> Result<Array, Error> {
    let indices = clamped(step, 1, step.types[0].shape[0])?;
    step.mlx.take(step.operands[0], &indices)
}

pub fn scatter_add(step: &Step) -> Result<Array, Error> {
    let shape = &step.types[0].shape;
    let indices = clamped(step, 1, shape[0])?;
    let count: usize = step.types[1].shape.iter().product();
    let indices = step.mlx.reshape(&indices, &[count])?;
    let block: Vec<usize> = [count, 1].iter().chain(&shape[1..]).copied().collect();
    let updates = step.mlx.reshape(&step.wide(2)?, &block)?;
    let sums = step.mlx.scatter_add(&step.wide(0)?, &indices, &updates)?;
    step.narrow(0, &sums)
}

/// A position as MLX takes it, such that `size` elements fit behind it.
fn start(step: &Step, operand: usize, length: usize, size: usize) -> Result<Array, Error> {
    let last = u32::try_from(length - size).unwrap_or(u32::MAX);
    let start = step.mlx.minimum(step.operands[operand], &scalar_u32(last)?)?;
    step.mlx.reshape(&step.mlx.to_i32(&start)?, &[1])
}

pub fn dynamic_slice(step: &Step) -> Result<Array, Error> {
    let (axis, size) = (step.attrs.get_int("axis"), &step.results[0].shape);
    let start = start(step, 1, step.types[0].shape[axis], size[axis])?;
    step.mlx.slice_at(step.operands[0], &start, axis, size)
}

pub fn update_slice(step: &Step) -> Result<Array, Error> {
    let axis = step.attrs.get_int("axis");
    let start = start(step, 2, step.types[0].shape[axis], step.types[1].shape[axis])?;
    step.mlx.update_at(step.operands[0], step.operands[1], &start, axis)
}

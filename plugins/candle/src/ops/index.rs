//! Rows by number, and blocks at positions that are known when a program runs.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::Op;

use super::{Step, elementwise};
use crate::host;
use crate::kernel::{self, Numbers};

/// Whole numbers, each at most `last`.
fn clamped(step: &Step, operand: usize, last: usize) -> Result<Tensor> {
    let x = step.flat(operand)?;
    let last = Tensor::new(u32::try_from(last).unwrap_or(u32::MAX), step.placed)?;
    elementwise::words(Op::Min, &x, &last.broadcast_as(x.dims())?)
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

/// Updates of a part that one thread adds up.
const PART: usize = 32;
/// Updates that a block sorts, as many as the kernel has room for.
const RUN: usize = 256;

/// In place of the base, if nothing else reads it.
pub fn scatter_add(step: &Step) -> Result<Tensor> {
    let out = step.written(0)?;
    if step.is_cpu() {
        host::index::scatter_add(step, &out)?;
        return Ok(out);
    }
    let (indices, updates) = (step.flat(1)?, step.flat(2)?);
    let count = indices.elem_count();
    let width = updates.elem_count() / count;
    let sorted = sorted(step, &indices)?;
    let parts = count.div_ceil(PART);
    let sums = || kernel::empty(&[parts, width], CandleType::F32, step.placed);
    let (begins, ends) = (sums()?, sums()?);
    let (numbers, blocks) =
        (Numbers::new(&[count, width, PART], &[]), (parts * width).div_ceil(kernel::THREADS));
    let name = |kind: &str| Ok::<_, candle_core::Error>(format!("{kind}_{}", kernel::suffix(out.dtype())?));
    let tensors = [&sorted, &updates, &out, &begins, &ends];
    kernel::launch(&name("scatter_parts")?, &tensors, numbers, blocks, kernel::THREADS)?;
    if parts > 1 {
        let tensors = [&sorted, &begins, &ends, &out];
        kernel::launch(&name("scatter_long")?, &tensors, numbers, blocks, kernel::THREADS)?;
    }
    Ok(out)
}

/// The rows that updates are for, sorted, and the numbers of the updates: `u32[2, updates]`.
fn sorted(step: &Step, indices: &Tensor) -> Result<Tensor> {
    let (count, rows) = (indices.elem_count(), step.types[0].shape[0]);
    if u32::try_from(count).is_err() {
        candle_core::bail!("scatter_add of {count} updates: there may be at most {}", u32::MAX)
    }
    let empty = || kernel::empty(&[2, count], CandleType::U32, step.placed);
    let blocks = count.div_ceil(RUN);
    let mut sorted = empty()?;
    kernel::launch(
        "sort_rows",
        &[indices, &sorted],
        Numbers::new(&[count, rows, RUN], &[]),
        blocks,
        kernel::THREADS,
    )?;
    if count <= RUN {
        return Ok(sorted);
    }
    let (mut merged, mut run) = (empty()?, RUN);
    while run < count {
        kernel::launch(
            "merge_rows",
            &[&sorted, &merged],
            Numbers::new(&[count, run], &[]),
            blocks,
            kernel::THREADS,
        )?;
        std::mem::swap(&mut sorted, &mut merged);
        run *= 2;
    }
    Ok(sorted)
}

pub fn dynamic_slice(step: &Step) -> Result<Tensor> {
    let axis = step.attrs.get_int("axis");
    let size = step.results[0].shape[axis];
    let start = clamped(step, 1, step.types[0].shape[axis] - size)?;
    let indices = Tensor::arange(0, size as u32, step.placed)?;
    let indices = elementwise::words(Op::Add, &indices, &start.broadcast_as(size)?)?;
    step.operands[0].contiguous()?.index_select(&indices, axis)
}

/// In place of the base, if nothing else reads it.
pub fn update_slice(step: &Step) -> Result<Tensor> {
    let out = step.written(0)?;
    if step.is_cpu() {
        host::index::update_slice(step, &out)?;
        return Ok(out);
    }
    let (axis, shape) = (step.attrs.get_int("axis"), &step.types[0].shape);
    let (update, start) = (step.flat(1)?, step.flat(2)?);
    let [outer, inner] = [&shape[..axis], &shape[axis + 1..]].map(|dims| dims.iter().product());
    let numbers = Numbers::new(&[outer, shape[axis], step.types[1].shape[axis], inner], &[]);
    let name = format!("update_slice_{}", 8 * out.dtype().size_in_bytes());
    let blocks = update.elem_count().div_ceil(kernel::THREADS);
    kernel::launch(&name, &[&update, &start, &out], numbers, blocks, kernel::THREADS)?;
    Ok(out)
}

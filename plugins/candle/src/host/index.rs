//! Parts and rows of a tensor, written in its place.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::flat;
use crate::ops::Step;

/// Where a contiguous tensor's elements are in its memory.
fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    let ends = layout.contiguous_offsets();
    ends.map(|(first, end)| first..end).ok_or_else(|| candle_core::Error::Msg("it lies in one piece".into()))
}

/// Writes [outer, size, inner] into [outer, length, inner] from `start` of the middle on.
struct UpdateSlice {
    start: usize,
    length: usize,
    size: usize,
    inner: usize,
}

impl UpdateSlice {
    fn write<T: Copy>(&self, out: &mut [T], update: &[T]) {
        let blocks = out.chunks_exact_mut(self.length * self.inner);
        for (out, update) in blocks.zip(update.chunks_exact(self.size * self.inner)) {
            out[self.start * self.inner..][..update.len()].copy_from_slice(update);
        }
    }
}

impl InplaceOp2 for UpdateSlice {
    fn name(&self) -> &'static str {
        "update_slice"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, at: &Layout, update: &CpuStorage, from: &Layout) -> Result<()> {
        let (at, from) = (range(at)?, range(from)?);
        match (out, update) {
            (CpuStorage::F32(out), CpuStorage::F32(update)) => self.write(&mut out[at], &update[from]),
            (CpuStorage::F16(out), CpuStorage::F16(update)) => self.write(&mut out[at], &update[from]),
            (CpuStorage::BF16(out), CpuStorage::BF16(update)) => self.write(&mut out[at], &update[from]),
            (CpuStorage::U32(out), CpuStorage::U32(update)) => self.write(&mut out[at], &update[from]),
            (CpuStorage::U8(out), CpuStorage::U8(update)) => self.write(&mut out[at], &update[from]),
            _ => candle_core::bail!("update_slice: base and update are of two types"),
        }
        Ok(())
    }
}

/// Writes the update into `out`, which has the base's elements.
pub fn update_slice(step: &Step, out: &Tensor) -> Result<()> {
    let (axis, shape) = (step.attrs.get_int("axis"), &step.types[0].shape);
    let (length, size) = (shape[axis], step.types[1].shape[axis]);
    let start = flat::<u32>(step.operands[2])?.first().map_or(0, |&start| start as usize).min(length - size);
    let op = UpdateSlice { start, length, size, inner: shape[axis + 1..].iter().product() };
    out.inplace_op2(&step.operands[1].contiguous()?, &op)
}

/// Adds rows of so many elements to those that they are for: pairs of a row and an update, sorted.
struct ScatterAdd {
    order: Vec<(usize, usize)>,
    width: usize,
}

impl ScatterAdd {
    /// A row gets the sum of its updates at once, by one thread.
    fn add<T: WithDType>(&self, out: &mut [T], updates: &[T], wide: fn(T) -> f32, narrow: fn(f32) -> T) {
        let (mut rest, mut next) = (out, 0);
        let mut rows = Vec::new();
        for group in self.order.chunk_by(|a, b| a.0 == b.0) {
            let row = group[0].0;
            let (own, after) = rest[(row - next) * self.width..].split_at_mut(self.width);
            (rest, next) = (after, row + 1);
            rows.push((own, group));
        }
        let add = |sum: &mut Vec<f32>, (row, group): (&mut [T], &[(usize, usize)])| {
            sum.clear();
            sum.extend(row.iter().map(|&x| wide(x)));
            for (_, update) in group {
                let update = &updates[update * self.width..][..self.width];
                sum.iter_mut().zip(update).for_each(|(sum, &x)| *sum += wide(x));
            }
            row.iter_mut().zip(&*sum).for_each(|(x, &sum)| *x = narrow(sum));
        };
        rows.into_par_iter().for_each_init(Vec::new, add);
    }
}

impl InplaceOp2 for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, at: &Layout, updates: &CpuStorage, from: &Layout) -> Result<()> {
        let (at, from) = (range(at)?, range(from)?);
        match (out, updates) {
            (CpuStorage::F32(out), CpuStorage::F32(updates)) => {
                self.add(&mut out[at], &updates[from], |x| x, |x| x);
            }
            (CpuStorage::F16(out), CpuStorage::F16(updates)) => {
                self.add(&mut out[at], &updates[from], f16::to_f32, f16::from_f32);
            }
            (CpuStorage::BF16(out), CpuStorage::BF16(updates)) => {
                self.add(&mut out[at], &updates[from], bf16::to_f32, bf16::from_f32);
            }
            _ => candle_core::bail!("scatter_add: base and updates are not of one float type"),
        }
        Ok(())
    }
}

/// Adds the updates to `out`, which has the base's elements.
pub fn scatter_add(step: &Step, out: &Tensor) -> Result<()> {
    let rows = step.types[0].shape[0];
    let indices = flat::<u32>(step.operands[1])?;
    let each = indices.into_iter().enumerate().map(|(update, row)| ((row as usize).min(rows - 1), update));
    let mut order: Vec<(usize, usize)> = each.collect();
    order.sort_unstable();
    let width = step.types[0].shape[1..].iter().product();
    out.inplace_op2(&step.operands[2].contiguous()?, &ScatterAdd { order, width })
}

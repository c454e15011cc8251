//! Cross entropy, and cross entropy of a linear layer in chunks of rows.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::optim::{elements, written};
use super::softmax::softmax;
use super::{flat, floats, result};
use crate::ops::Step;

/// The most logits that are held at a time.
pub const LOGITS: usize = 8 << 20;

/// sum = sum + x, in the place of the sum.
struct Added;

impl InplaceOp2 for Added {
    fn name(&self) -> &'static str {
        "added"
    }

    fn cpu_fwd(&self, sum: &mut CpuStorage, at: &Layout, x: &CpuStorage, x_at: &Layout) -> Result<()> {
        let pairs = written(sum, at)?.par_iter_mut().zip(elements(x, x_at)?);
        pairs.for_each(|(sum, x)| *sum += x);
        Ok(())
    }
}

/// Replaces the logits of rows by the gradient of their loss; gives the loss.
fn losses(logits: &mut [f32], targets: &[u32], weights: &[f32]) -> f64 {
    let classes = logits.len() / targets.len();
    let rows = logits.par_chunks_mut(classes).zip(targets).zip(weights);
    let each = rows.map(|((row, &target), &weight)| {
        let target = (target as usize).min(classes - 1);
        let chosen = row[target];
        let (most, total) = softmax(row);
        row[target] -= 1.0;
        row.iter_mut().for_each(|x| *x *= weight);
        f64::from(weight * (total.ln() - (chosen - most)))
    });
    // In the order of the rows, whatever the number of threads.
    each.collect::<Vec<f64>>().iter().sum()
}

pub fn cross_entropy(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let mut logits = floats(step.operands[0])?;
    let loss = losses(&mut logits, &flat::<u32>(step.operands[1])?, &floats(step.operands[2])?);
    Ok(vec![Some(result(step, 0, vec![loss as f32])?), Some(result(step, 1, logits)?)])
}

pub fn linear_cross_entropy(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let wide = |i: usize| step.operands[i].to_dtype(candle_core::DType::F32)?.contiguous();
    let (x, weight, targets, weights) =
        (wide(0)?, wide(1)?, flat::<u32>(step.operands[2])?, floats(step.operands[3])?);
    let (rows, classes) = (x.dim(0)?, weight.dim(0)?);
    let chunk = (LOGITS / classes).clamp(1, rows);
    let mut loss = 0.0;
    let dx = match step.needed[1] {
        true => Some(Tensor::zeros_like(&x)?),
        false => None,
    };
    let mut dweight = None::<Tensor>;
    for first in (0..rows).step_by(chunk) {
        let count = chunk.min(rows - first);
        let part = x.narrow(0, first, count)?;
        let mut logits = floats(&part.matmul(&weight.t()?)?)?;
        let chosen = first..first + count;
        loss += losses(&mut logits, &targets[chosen.clone()], &weights[chosen]);
        let dlogits = Tensor::from_vec(logits, (count, classes), step.placed)?;
        if let Some(dx) = &dx {
            dx.slice_set(&dlogits.matmul(&weight)?, 0, first)?;
        }
        if step.needed[2] {
            let more = dlogits.t()?.matmul(&part)?;
            match &dweight {
                Some(sum) => sum.inplace_op2(&more, &Added)?,
                None => dweight = Some(more),
            }
        }
    }
    let narrow = |x: Tensor, i: usize| x.to_dtype(crate::ops::candle_type(step.results[i].dtype));
    let dx = dx.map(|dx| narrow(dx, 1)).transpose()?;
    let dweight = dweight.map(|sum| narrow(sum, 2)).transpose()?;
    Ok(vec![Some(result(step, 0, vec![loss as f32])?), dx, dweight])
}

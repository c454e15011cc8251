//! Cross entropy, and cross entropy of a linear layer in chunks of rows, so that the logits are never whole.

use candle_core::{DType as CandleType, Result, Tensor};

use super::{Step, elementwise};
use crate::host;
use crate::kernel::product::{Matrix, Product, between, is_widened};
use crate::kernel::{self, Numbers};

/// So many logits at most are computed with in f32 throughout, whatever the type: they cost next to nothing.
const SHORT: usize = 1 << 16;
/// Bytes of the logits that are held at a time, in f32.
pub const LOGITS: usize = 512 << 20;

pub fn cross_entropy(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::loss::cross_entropy(step);
    }
    let (logits, targets, weights) = (step.flat(0)?, step.flat(1)?, step.flat(2)?);
    let (rows, classes) = logits.dims2()?;
    let losses = kernel::empty(&[rows], CandleType::F32, step.placed)?;
    // What is not wanted is not written, so it may lie anywhere.
    let dlogits = if step.needed[1] { step.over(1, &[0])? } else { logits.clone() };
    let tensors = [&logits, &targets, &weights, &losses, &dlogits];
    let is_wide = usize::from(kernel::is_wide(&[&logits, &dlogits], classes));
    let numbers = Numbers::new(&[rows, classes, is_wide, usize::from(step.needed[1]), classes], &[]);
    let name = format!("cross_entropy_{}", kernel::suffix(logits.dtype())?);
    kernel::launch(&name, &tensors, numbers, rows, kernel::threads_for(classes, 1024))?;
    Ok(vec![Some(total(step, &losses)?), step.needed[1].then_some(dlogits)])
}

/// The sum of `f32[rows]`.
fn total(step: &Step, losses: &Tensor) -> Result<Tensor> {
    let loss = step.empty(0)?;
    let numbers = Numbers::new(&[1, losses.elem_count(), 1, 0, 1], &[]);
    kernel::launch("reduce_rows_f32", &[losses, &loss], numbers, 1, kernel::THREADS)?;
    Ok(loss)
}

pub fn linear_cross_entropy(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::loss::linear_cross_entropy(step);
    }
    let (rows, classes) = (step.types[0].shape[0], step.types[1].shape[0]);
    let is_short = is_widened(step.operands[0].dtype()) && rows * classes <= SHORT;
    let operand = |number: usize| match is_short {
        true => step.wide(number).and_then(|x| super::flat(&x)),
        false => step.flat(number),
    };
    let x = operand(0)?;
    let linear = Linear {
        weight: operand(1)?,
        targets: step.flat(2)?,
        weights: step.flat(3)?,
        losses: kernel::empty(&step.types[2].shape, CandleType::F32, step.placed)?,
        dx: match step.needed[1] {
            true => Some(kernel::empty(&step.types[0].shape, x.dtype(), step.placed)?),
            false => None,
        },
        // Summed over the chunks in f32, whatever its type.
        dweight: match step.needed[2] {
            true => Some(kernel::empty(&step.types[1].shape, CandleType::F32, step.placed)?),
            false => None,
        },
        x,
    };
    let chunk = (LOGITS / 4 / classes).clamp(1, rows);
    let logits = kernel::empty(&[chunk, classes], CandleType::F32, step.placed)?;
    for first in (0..rows).step_by(chunk) {
        linear.chunk(&logits, first, chunk.min(rows - first))?;
    }
    let narrow = |number: usize, x: Tensor| elementwise::cast(&x, step.results[number].dtype);
    let loss = total(step, &linear.losses)?;
    let dx = linear.dx.map(|dx| narrow(1, dx)).transpose()?;
    let dweight = linear.dweight.map(|sum| narrow(2, sum)).transpose()?;
    Ok(vec![Some(loss), dx, dweight])
}

struct Linear {
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    losses: Tensor,
    dx: Option<Tensor>,
    dweight: Option<Tensor>,
}

impl Linear {
    /// The losses of so many rows and what they add to the gradients.
    fn chunk(&self, logits: &Tensor, first: usize, count: usize) -> Result<()> {
        let (classes, channels) = self.weight.dims2()?;
        let (x, weight) = (Matrix::rows(&self.x, channels), Matrix::rows(&self.weight, channels));
        let x = x.from(first * channels);
        let c = Matrix::rows(logits, classes);
        let size = [count, classes, channels];
        Product { a: x, b: weight.transposed(), c, size, count: 1, alpha: 1.0, beta: 0.0 }.run()?;
        let gradient = self.dx.is_some() || self.dweight.is_some();
        let dlogits = self.row_losses(logits, first, count, gradient)?;
        if let Some(dx) = &self.dx {
            let c = Matrix::rows(dx, channels).from(first * channels);
            let size = [count, channels, classes];
            Product { a: dlogits, b: weight, c, size, count: 1, alpha: 1.0, beta: 0.0 }.run()?;
        }
        if let Some(dweight) = &self.dweight {
            let (a, c) = (dlogits.transposed(), Matrix::rows(dweight, channels));
            let (size, beta) = ([classes, channels, count], if first > 0 { 1.0 } else { 0.0 });
            Product { a, b: x, c, size, count: 1, alpha: 1.0, beta }.run()?;
        }
        Ok(())
    }

    /// Replaces the logits by their gradient.
    fn row_losses<'a>(
        &self,
        logits: &'a Tensor,
        first: usize,
        count: usize,
        gradient: bool,
    ) -> Result<Matrix<'a>> {
        let (_, classes) = logits.dims2()?;
        let part = |x: &Tensor| x.narrow(0, first, count);
        let (targets, weights, losses) = (part(&self.targets)?, part(&self.weights)?, part(&self.losses)?);
        let dtype = between(self.x.dtype());
        let (name, row) = match dtype {
            CandleType::F32 => ("cross_entropy_f32".to_owned(), classes),
            other => (format!("cross_entropy_narrow_{}", kernel::suffix(other)?), 2 * classes),
        };
        let is_wide = usize::from(kernel::is_wide(&[logits], classes));
        let numbers = Numbers::new(&[count, classes, is_wide, usize::from(gradient), row], &[]);
        let tensors = [logits, &targets, &weights, &losses, logits];
        kernel::launch(&name, &tensors, numbers, count, kernel::threads_for(classes, 1024))?;
        Ok(Matrix::rows(logits, row).of(dtype))
    }
}

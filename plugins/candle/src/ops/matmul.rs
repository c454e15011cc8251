//! Matrix products.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::DType;

use super::Step;
use crate::kernel::product::{Matrix, Product};

/// The most elements of a product in f32 that are held at a time where its result is of a shorter type; a row or a
/// matrix at least.
pub const CHUNK: usize = 8 << 20;

pub fn run(step: &Step) -> Result<Tensor> {
    if !step.is_cpu() {
        return on_gpu(step);
    }
    let operand = |number: usize, transpose: &str| {
        // Shorter types would be summed in themselves.
        let x = step.wide(number)?.contiguous()?;
        let rank = x.rank();
        if step.attrs.get_bool(transpose) { x.transpose(rank - 2, rank - 1) } else { Ok(x) }
    };
    let (a, b) = (operand(0, "transpose_a")?, operand(1, "transpose_b")?);
    let ty = step.results[0];
    if ty.dtype == DType::F32 {
        return a.matmul(&b);
    }
    // What is rounded is computed in parts: the whole of it is not in memory twice over.
    let rounded = Tensor::zeros(ty.shape.as_slice(), super::candle_type(ty.dtype), step.placed)?;
    let (lines, is_batch) = (ty.shape[0], ty.shape.len() > 2);
    let part = (CHUNK * lines / ty.elements()).clamp(1, lines);
    for first in (0..lines).step_by(part) {
        let count = part.min(lines - first);
        let a = a.narrow(0, first, count)?;
        let product = if is_batch { a.matmul(&b.narrow(0, first, count)?)? } else { a.matmul(&b)? };
        rounded.slice_set(&step.narrow(0, &product)?, 0, first)?;
    }
    Ok(rounded)
}

fn on_gpu(step: &Step) -> Result<Tensor> {
    let c = step.empty(0)?;
    multiply(step, &c, 0.0)?;
    Ok(c)
}

/// c + a b in the place of c, the third operand, or of a copy if that is still read.
pub fn add_product(step: &Step) -> Result<Tensor> {
    let c = if step.free[2] { step.operands[2].clone() } else { super::copied(step.operands[2])? };
    multiply(step, &c, 1.0)?;
    Ok(c)
}

/// c = a b + beta c
fn multiply(step: &Step, c: &Tensor, beta: f64) -> Result<()> {
    let dims = c.dims();
    let [.., m, n] = dims[..] else { candle_core::bail!("a product wants two dimensions") };
    let transposed = |number: usize, name: &str| {
        let x = step.operands[number];
        let rank = x.rank();
        if step.attrs.get_bool(name) { x.transpose(rank - 2, rank - 1) } else { Ok(x.clone()) }
    };
    let (a, b) = (transposed(0, "transpose_a")?, transposed(1, "transpose_b")?);
    let k = a.dims()[a.rank() - 1];
    let (mut copy_a, mut copy_b) = (None, None);
    let product = Product {
        a: matrix(&a, &mut copy_a)?,
        b: matrix(&b, &mut copy_b)?,
        c: Matrix::rows(c, n).step(m * n),
        size: [m, n, k],
        count: dims[..dims.len() - 2].iter().product(),
        alpha: 1.0,
        beta,
    };
    product.run()
}

/// The matrices of an operand as they lie, or those of a copy where they lie in no rows or columns.
fn matrix<'a>(x: &'a Tensor, copy: &'a mut Option<Tensor>) -> Result<Matrix<'a>> {
    if let Some(matrix) = as_it_lies(x) {
        return Ok(matrix);
    }
    let x = copy.insert(super::copied(x)?);
    let (rows, columns) = (x.dims()[x.rank() - 2], x.dims()[x.rank() - 1]);
    Ok(Matrix::rows(x, columns).step(rows * columns))
}

fn as_it_lies(x: &Tensor) -> Option<Matrix<'_>> {
    let [batch @ .., rows, columns] = x.dims() else { return None };
    let [steps @ .., down, along] = x.stride() else { return None };
    // One step leads from matrix to matrix.
    let mut outer = batch.iter().zip(steps).filter(|(size, _)| **size > 1);
    let mut step = 0;
    let mut run = None;
    for (&size, &stride) in outer.by_ref() {
        if run.is_some_and(|last: usize| last != stride * size) {
            return None;
        }
        run = Some(stride);
        step = stride;
    }
    let fits = |inner: usize, size: usize, next: usize, lines: usize| {
        (inner == 1 || size == 1) && (next >= size || lines == 1)
    };
    if fits(*along, *columns, *down, *rows) {
        return Some(Matrix::rows(x, (*down).max(*columns)).step(step));
    }
    let is_turned = fits(*down, *rows, *along, *columns);
    is_turned.then(|| Matrix::rows(x, (*along).max(*rows)).step(step).transposed())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// (row, step, transposed) of what cuBLAS is told; a wrong one reads other elements.
    #[test]
    fn matrices_are_taken_as_they_lie() {
        let lies = |x: &Tensor| as_it_lies(x).map(|m| (m.row, m.step, m.transposed));
        let x = Tensor::zeros((2, 3, 4, 5), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(lies(&x), Some((5, 20, false)));
        assert_eq!(lies(&x.transpose(2, 3).unwrap()), Some((5, 20, true)));
        // Heads between rows and channels: [2, 4, 3, 5] of [2, 3, 4, 5].
        assert_eq!(lies(&x.transpose(1, 2).unwrap()), None);
        assert_eq!(lies(&x.narrow(0, 0, 1).unwrap().transpose(1, 2).unwrap()), Some((20, 5, false)));
        assert_eq!(lies(&x.narrow(3, 1, 2).unwrap()), Some((5, 20, false)));
        let row = Tensor::zeros((1, 5), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(lies(&row.broadcast_as((4, 5)).unwrap()), None);
    }
}

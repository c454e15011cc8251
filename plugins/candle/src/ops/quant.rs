//! Affine groups of whole numbers.

use candle_core::{Result, Tensor};

use super::{Step, candle_type};
use crate::host;
use crate::kernel::product::{Matrix, Product};
use crate::kernel::{self, Numbers};

pub fn dequantize(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return step.narrow(0, &host::quant::dequantized(step, 0)?);
    }
    dequantized(step, 0)
}

/// The matrix of the packed operand `first` and those behind it, in their type.
fn dequantized(step: &Step, first: usize) -> Result<Tensor> {
    let bits = step.attrs.get_int("bits");
    let [rows, words] = step.types[first].shape[..] else {
        candle_core::bail!("packed numbers want two dimensions")
    };
    let [packed, scales, biases] = [step.flat(first)?, step.flat(first + 1)?, step.flat(first + 2)?];
    let out = kernel::empty(&[rows, words * 32 / bits], scales.dtype(), step.placed)?;
    let numbers = Numbers::new(&[rows, words, bits, step.attrs.get_int("group")], &[]);
    let name = format!("dequantize_{}", kernel::suffix(scales.dtype())?);
    let blocks = (rows * words).div_ceil(kernel::THREADS);
    kernel::launch(&name, &[&packed, &scales, &biases, &out], numbers, blocks, kernel::THREADS)?;
    Ok(out)
}

pub fn matmul(step: &Step) -> Result<Tensor> {
    let is_transposed = step.attrs.get_bool("transpose");
    if step.is_cpu() {
        let w = host::quant::dequantized(step, 1)?;
        let w = if is_transposed { w.t()? } else { w };
        return step.narrow(0, &step.wide(0)?.contiguous()?.matmul(&w)?);
    }
    let (x, w) = (step.flat(0)?, dequantized(step, 1)?);
    let (r, k) = w.dims2()?;
    let y = kernel::empty(&step.results[0].shape, candle_type(step.results[0].dtype), step.placed)?;
    let b = Matrix::rows(&w, k);
    let (inner, columns, b) = if is_transposed { (k, r, b.transposed()) } else { (r, k, b) };
    let rows = x.elem_count() / inner;
    Product {
        a: Matrix::rows(&x, inner),
        b,
        c: Matrix::rows(&y, columns),
        size: [rows, columns, inner],
        count: 1,
        alpha: 1.0,
        beta: 0.0,
    }
    .run()?;
    Ok(y)
}

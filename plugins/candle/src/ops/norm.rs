//! RMS norm and layer norm over the last dimension, and their gradients.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::{DType, Op, rows_and_width};

use super::{Step, elementwise};
use crate::host;
use crate::kernel::{self, Numbers};

/// Rows whose part of a weight's gradient one block sums.
const EACH: usize = 256;

/// A weight in a type that the kernels take beside x: x's own or f32.
fn weight(step: &Step, operand: usize) -> Result<Tensor> {
    let dtype = step.types[operand].dtype;
    match dtype == step.types[0].dtype || dtype == DType::F32 {
        true => step.flat(operand),
        false => elementwise::cast(&step.flat(operand)?, DType::F32),
    }
}

fn name(kind: &str, x: &Tensor, weight: &Tensor) -> Result<String> {
    Ok(format!("{kind}_{}_{}", kernel::suffix(x.dtype())?, kernel::suffix(weight.dtype())?))
}

pub fn forward(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::norm::forward(step);
    }
    let (rows, width) = rows_and_width(&step.types[0].shape);
    let (x, w, y) = (step.flat(0)?, weight(step, 1)?, step.over(0, &[0])?);
    let bias =
        if step.op == Op::LayerNorm { Some(elementwise::cast(&weight(step, 2)?, of(&w))?) } else { None };
    let mut tensors = vec![&x, &w];
    tensors.extend(&bias);
    tensors.push(&y);
    let is_wide = usize::from(kernel::is_wide(&tensors, width));
    let numbers = Numbers::new(&[rows, width, is_wide], &[step.attrs.get_float("eps")]);
    let kind = if step.op == Op::LayerNorm { "layer_norm" } else { "rms_norm" };
    kernel::launch(
        &name(kind, &x, &w)?,
        &tensors,
        numbers,
        rows,
        kernel::threads_for(width, kernel::THREADS),
    )?;
    Ok(y)
}

/// The language's type of a float tensor.
fn of(x: &Tensor) -> DType {
    match x.dtype() {
        CandleType::F16 => DType::F16,
        CandleType::BF16 => DType::Bf16,
        _ => DType::F32,
    }
}

pub fn grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::norm::grad(step);
    }
    let (rows, width) = rows_and_width(&step.types[0].shape);
    let (x, w, dy) = (step.flat(0)?, weight(step, 1)?, step.flat(2)?);
    // The sums for the weights read x and dy again.
    let sums = step.needed[1..].iter().any(|needed| *needed);
    let dx = if sums { step.empty(0)? } else { step.over(0, &[0, 2])? };
    let facts = kernel::empty(&[rows, 2], CandleType::F32, step.placed)?;
    let tensors = [&x, &w, &dy, &dx, &facts];
    let is_wide = usize::from(kernel::is_wide(&tensors[..4], width));
    let numbers = Numbers::new(&[rows, width, is_wide], &[step.attrs.get_float("eps")]);
    let is_centred = step.op == Op::LayerNormGrad;
    let kind = if is_centred { "layer_norm_grad" } else { "rms_norm_grad" };
    kernel::launch(
        &name(kind, &x, &w)?,
        &tensors,
        numbers,
        rows,
        kernel::threads_for(width, kernel::THREADS),
    )?;
    let mut results = vec![Some(dx)];
    if !sums {
        results.resize(step.results.len(), None);
        return Ok(results);
    }
    let parts = rows.div_ceil(EACH);
    let part = || kernel::empty(&[parts, width], CandleType::F32, step.placed);
    let (dweight, dbias) = (part()?, part()?);
    let numbers = Numbers::new(&[rows, width, EACH, usize::from(is_centred)], &[]);
    let name = format!("norm_weights_{}", kernel::suffix(x.dtype())?);
    let tensors = [&x, &dy, &facts, &dweight, &dbias];
    kernel::launch(&name, &tensors, numbers, parts * width.div_ceil(32), kernel::THREADS)?;
    for (number, sums) in [&dweight, &dbias].into_iter().take(step.results.len() - 1).enumerate() {
        results.push(Some(super::reduce::columns(step, 1 + number, sums, [1, parts, width], true)?));
    }
    Ok(results)
}

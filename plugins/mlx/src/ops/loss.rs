//! Cross entropy, and that of a linear layer without its logits ever being whole.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::{DType, TensorType};

use super::matmul::product;
use super::{Results, Step, scalar_u32};
use crate::mlx::{Array, Mlx};

/// Logits that are there at a time, in elements: large enough for the products to be efficient.
const LOGITS: usize = 64 << 20;

/// The logits of a chunk in their type and, in f32, as exponentials and as gradient; on the processor each step from
/// one to the other is an array.
pub fn workspace(gpu: bool) -> Vec<Term> {
    let logits =
        |bytes: usize| Term { bytes, dims: vec![(0, 0), (1, 0)], most: bytes * LOGITS, ..Term::default() };
    let dweight = Term { bytes: 4, dims: vec![(1, 0), (1, 1)], result: Some(2), ..Term::default() };
    if gpu {
        return vec![logits(12), dweight];
    }
    let wide = |i| Term { bytes: 4, dims: vec![(i, 0), (i, 1)], half: Some(i), ..Term::default() };
    vec![logits(20), dweight, wide(0), wide(1)]
}

/// Rows whose logits are there at a time.
fn rows_at_a_time(n: usize, v: usize) -> usize {
    (LOGITS / v).clamp(1, n)
}

/// How many arrays each of a layer's chunks of rows ends with, and how many chunks there are.
pub fn chunks(x: &TensorType, weight: &TensorType, needed: &[bool]) -> (usize, usize) {
    let (n, v) = (x.shape[0], weight.shape[0]);
    (1 + usize::from(needed[1]) + usize::from(needed[2]), n.div_ceil(rows_at_a_time(n, v)))
}

/// The sum of losses, f32[], and the gradient of the logits in f32.
fn rows(
    mlx: &Mlx,
    logits: &Array,
    targets: &Array,
    weights: &Array,
    [n, v]: [usize; 2],
) -> Result<(Array, Array), Error> {
    let targets = mlx.minimum(targets, &scalar_u32(u32::try_from(v - 1).unwrap_or(u32::MAX))?)?;
    let targets = mlx.reshape(&targets, &[n, 1])?;
    let weights = mlx.reshape(weights, &[n, 1])?;
    let sums = mlx.logsumexp(&mlx.f32(logits)?)?;
    let chosen = mlx.f32(&mlx.take_along(logits, &targets)?)?;
    let loss = mlx.sum_all(&mlx.mul(&weights, &mlx.sub(&sums, &chosen)?)?)?;
    let hit = mlx.eq(&mlx.reshape(&mlx.count(v, DType::U32)?, &[1, v])?, &targets)?;
    // Widened anew, within the one kernel that this is: what was widened for the sums would be read from memory, at
    // twice the size.
    let p = mlx.exp(&mlx.sub(&mlx.f32(logits)?, &sums)?)?;
    let gradient = mlx.mul(&mlx.sub(&p, &mlx.f32(&hit)?)?, &weights)?;
    Ok((loss, gradient))
}

pub fn cross_entropy(step: &Step) -> Results {
    let [n, v] = step.types[0].shape[..] else {
        return Err(Error::invalid_program("cross_entropy takes a matrix"));
    };
    let (loss, gradient) = rows(step.mlx, step.operands[0], step.operands[1], step.operands[2], [n, v])?;
    Ok(vec![Some(loss), Some(step.narrow(1, &gradient)?)])
}

pub fn linear_cross_entropy(step: &Step) -> Results {
    let mlx = step.mlx;
    let ([n, d], v) = (step.types[0].shape[..].try_into().unwrap_or([1, 1]), step.types[1].shape[0]);
    let (x, weight) = (step.operands[0], step.operands[1]);
    let chunk = rows_at_a_time(n, v);
    let (mut losses, mut dxs, mut dweight): (Vec<Array>, Vec<Array>, Option<Array>) = Default::default();
    for start in (0..n).step_by(chunk) {
        let size = chunk.min(n - start);
        let part = |i: usize| mlx.slice(step.operands[i], &[start], &[size]);
        let mut x = mlx.slice(x, &[start, 0], &[size, d])?;
        if let Some(before) = losses.last() {
            // Else MLX is free to begin with the logits of all chunks.
            x = mlx.after(&x, dxs.last().unwrap_or(before))?;
        }
        let logits = product(mlx, &x, &mlx.transpose(weight)?)?;
        let (loss, gradient) = rows(mlx, &logits, &part(2)?, &part(3)?, [size, v])?;
        let gradient = if mlx.gpu { mlx.cast(&gradient, step.types[0].dtype)? } else { gradient };
        step.parts.borrow_mut().push(loss.clone());
        losses.push(loss);
        if step.needed[1] {
            let dx = step.narrow(1, &product(mlx, &gradient, weight)?)?;
            step.parts.borrow_mut().push(dx.clone());
            dxs.push(dx);
        }
        if step.needed[2] {
            let added = mlx.f32(&product(mlx, &mlx.transpose(&gradient)?, &x)?)?;
            let sum = match dweight {
                Some(sum) => mlx.add(&sum, &added)?,
                None => added,
            };
            step.parts.borrow_mut().push(sum.clone());
            dweight = Some(sum);
        }
    }
    let mut loss = losses[0].clone();
    for other in &losses[1..] {
        loss = mlx.add(&loss, other)?;
    }
    let dx = if step.needed[1] { Some(mlx.concat(&dxs.iter().collect::<Vec<_>>(), 0)?) } else { None };
    let dweight = dweight.map(|sum| step.narrow(2, &sum)).transpose()?;
    Ok(vec![Some(loss), dx, dweight])
}

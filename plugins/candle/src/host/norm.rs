//! RMS norm and layer norm over the last dimension, and their gradients.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::Op;
use rayon::prelude::*;

use super::{floats, result, sum};
use crate::ops::Step;

/// Brings a row to n = (x - mean) r, the mean being 0 for RMS norm; gives r.
fn normalise(row: &mut [f32], is_centred: bool, eps: f32) -> f32 {
    let count = row.len() as f32;
    if is_centred {
        let mean = sum(row.iter().copied()) / count;
        row.iter_mut().for_each(|x| *x -= mean);
    }
    let r = 1.0 / (sum(row.iter().map(|x| x * x)) / count + eps).sqrt();
    row.iter_mut().for_each(|x| *x *= r);
    r
}

pub fn forward(step: &Step) -> Result<Tensor> {
    let (mut x, weight) = (floats(step.operands[0])?, floats(step.operands[1])?);
    let bias = step.operands.get(2).map(|bias| floats(bias)).transpose()?;
    let (is_centred, eps) = (step.op == Op::LayerNorm, step.attrs.get_float("eps") as f32);
    x.par_chunks_mut(weight.len()).for_each(|row| {
        normalise(row, is_centred, eps);
        row.iter_mut().zip(&weight).for_each(|(x, w)| *x *= w);
        if let Some(bias) = &bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
    result(step, 0, x)
}

/// dy becomes dx and x its normalised form, n.
fn row_grad(x: &mut [f32], dy: &mut [f32], weight: &[f32], is_centred: bool, eps: f32) {
    let count = weight.len() as f32;
    let r = normalise(x, is_centred, eps);
    // dn = dy w; dx = r (dn - n mean(dn n)), less its mean for layer norm.
    dy.iter_mut().zip(weight).for_each(|(dy, w)| *dy *= w);
    let along = sum(dy.iter().zip(&*x).map(|(dn, n)| dn * n)) / count;
    let mean = if is_centred { sum(dy.iter().copied()) / count } else { 0.0 };
    dy.iter_mut().zip(x).for_each(|(dn, n)| *dn = r * (*dn - *n * along - mean));
}

pub fn grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let (mut n, weight, dy) =
        (floats(step.operands[0])?, floats(step.operands[1])?, floats(step.operands[2])?);
    let (is_centred, eps) = (step.op == Op::LayerNormGrad, step.attrs.get_float("eps") as f32);
    let width = weight.len();
    let mut dx = dy.clone();
    n.par_chunks_mut(width)
        .zip(dx.par_chunks_mut(width))
        .for_each(|(x, dy)| row_grad(x, dy, &weight, is_centred, eps));
    let mut results = vec![Some(result(step, 0, dx)?)];
    // Column by column, in the order of the rows, whatever the number of threads.
    let column = |f: &(dyn Fn(usize) -> f32 + Sync)| -> Vec<f32> {
        (0..width).into_par_iter().map(|c| sum((c..dy.len()).step_by(width).map(f))).collect()
    };
    for number in 1..step.results.len() {
        let sums = step.needed[number].then(|| match number {
            1 => column(&|i| dy[i] * n[i]),
            _ => column(&|i| dy[i]),
        });
        results.push(sums.map(|sums| result(step, number, sums)).transpose()?);
    }
    Ok(results)
}

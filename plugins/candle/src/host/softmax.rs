//! Softmax and its gradient.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{floats, result, sum};
use crate::ops::Step;

/// Replaces a row by its softmax; gives its largest element and the sum of e^(x - largest).
pub fn softmax(row: &mut [f32]) -> (f32, f32) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - most).exp());
    let total = sum(row.iter().copied());
    row.iter_mut().for_each(|x| *x /= total);
    (most, total)
}

fn width(step: &Step) -> usize {
    step.types[0].shape.last().copied().unwrap_or(1)
}

pub fn forward(step: &Step) -> Result<Tensor> {
    let mut x = floats(step.operands[0])?;
    x.par_chunks_mut(width(step)).for_each(|row| {
        softmax(row);
    });
    result(step, 0, x)
}

pub fn grad(step: &Step) -> Result<Tensor> {
    let (y, mut dy) = (floats(step.operands[0])?, floats(step.operands[1])?);
    let width = width(step);
    dy.par_chunks_mut(width).zip(y.par_chunks(width)).for_each(|(dy, y)| {
        let along = sum(y.iter().zip(&*dy).map(|(y, dy)| y * dy));
        dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = y * (*dy - along));
    });
    result(step, 0, dy)
}

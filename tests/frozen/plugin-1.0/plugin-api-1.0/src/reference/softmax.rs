//! Softmax over the last dimension.

use super::call::Call;
use super::tensor::Values;

/// e^x / sum e^x, and the logarithm of the sum. A NaN anywhere makes all NaN.
pub(super) fn softmax_row(x: &[f64]) -> (Vec<f64>, f64) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    (exps.into_iter().map(|exp| exp / sum).collect(), max + sum.ln())
}

pub(super) fn softmax(call: &Call<'_>) -> Vec<Values> {
    let rows = call.floats(0).chunks_exact(call.row(0));
    vec![Values::Float(rows.flat_map(|row| softmax_row(row).0).collect())]
}

pub(super) fn softmax_grad(call: &Call<'_>) -> Vec<Values> {
    let length = call.row(0);
    let rows = call.floats(0).chunks_exact(length).zip(call.floats(1).chunks_exact(length));
    let dx = rows.flat_map(|(y, dy)| {
        let along: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
        y.iter().zip(dy).map(move |(y, dy)| y * (dy - along))
    });
    vec![Values::Float(dx.collect())]
}

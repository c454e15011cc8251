//! Cross entropy, with and without the head's product.

use super::call::Call;
use super::matmul::product;
use super::softmax::softmax_row;
use super::tensor::Values;

/// The weighted sum of losses and its gradient by the logits.
fn losses(logits: &[f64], classes: usize, targets: &[u32], weights: &[f64]) -> (f64, Vec<f64>) {
    let mut loss = 0.0;
    let mut dlogits = Vec::with_capacity(logits.len());
    for ((row, &target), weight) in logits.chunks_exact(classes).zip(targets).zip(weights) {
        let target = (target as usize).min(classes - 1);
        let (mut p, log_sum) = softmax_row(row);
        loss += weight * (log_sum - row[target]);
        p[target] -= 1.0;
        dlogits.extend(p.iter().map(|p| weight * p));
    }
    (loss, dlogits)
}

pub(super) fn cross_entropy(call: &Call<'_>) -> Vec<Values> {
    let (loss, dlogits) = losses(call.floats(0), call.row(0), call.u32s(1), call.floats(2));
    vec![Values::Float(vec![loss]), Values::Float(dlogits)]
}

pub(super) fn linear_cross_entropy(call: &Call<'_>) -> Vec<Values> {
    let (x, weight) = (call.floats(0), call.floats(1));
    let ([count, channels], [classes, _]) = (call.dims::<2>(0), call.dims::<2>(1));
    let at_x = |n: usize, d: usize| x[n * channels + d];
    let at_weight = |v: usize, d: usize| weight[v * channels + d];
    let logits = product([count, channels, classes], at_x, |d, v| at_weight(v, d));
    let (loss, dlogits) = losses(&logits, classes, call.u32s(2), call.floats(3));
    let at_dlogits = |n: usize, v: usize| dlogits[n * classes + v];
    let dx = product([count, classes, channels], at_dlogits, at_weight);
    let dweight = product([classes, count, channels], |v, n| at_dlogits(n, v), at_x);
    vec![Values::Float(vec![loss]), Values::Float(dx), Values::Float(dweight)]
}

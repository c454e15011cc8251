//! Reductions.

use super::call::Call;
use super::elementwise::extreme;
use super::shape::{positions, strides};
use super::tensor::Values;

fn reduce(call: &Call<'_>, start: f64, combine: impl Fn(f64, f64) -> f64) -> Vec<Values> {
    let mut along = strides(&call.results[0].shape);
    call.attrs.get_ints("axes").iter().for_each(|&axis| along[axis] = 0);
    let mut result = vec![start; call.results[0].elements()];
    for (&x, to) in call.floats(0).iter().zip(positions(call.shape(0), &along, 0)) {
        result[to] = combine(result[to], x);
    }
    vec![Values::Float(result)]
}

pub(super) fn reduce_sum(call: &Call<'_>) -> Vec<Values> {
    reduce(call, 0.0, |sum, x| sum + x)
}

pub(super) fn reduce_max(call: &Call<'_>) -> Vec<Values> {
    reduce(call, f64::NEG_INFINITY, |max, x| extreme(max, x, max > x))
}

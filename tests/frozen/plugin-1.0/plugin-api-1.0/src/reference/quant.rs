//! Affine group quantization.

use super::call::Call;
use super::matmul::product;
use super::tensor::Values;

/// The matrix [R, K] that the operands packed, scales, biases from `first` on stand for, and K.
fn matrix(call: &Call<'_>, first: usize) -> (Vec<f64>, usize) {
    let (bits, group) = (call.attrs.get_int("bits"), call.attrs.get_int("group"));
    let (scales, biases) = (call.floats(first + 1), call.floats(first + 2));
    let numbers = call
        .u32s(first)
        .iter()
        .flat_map(|word| (0..32 / bits).map(move |i| f64::from(word >> (i * bits) & ((1 << bits) - 1))));
    // A row is a whole number of groups, so groups of all rows lie one after another.
    let matrix = numbers.enumerate().map(|(i, number)| scales[i / group] * number + biases[i / group]);
    (matrix.collect(), call.row(first) * (32 / bits))
}

pub(super) fn dequantize(call: &Call<'_>) -> Vec<Values> {
    vec![Values::Float(matrix(call, 0).0)]
}

pub(super) fn quantized_matmul(call: &Call<'_>) -> Vec<Values> {
    let x = call.floats(0);
    let (weight, columns) = matrix(call, 1);
    let ([count, inner], [_, outer]) = (call.dims::<2>(0), {
        let shape = &call.results[0].shape;
        [shape[0], shape[1]]
    });
    let transposed = call.attrs.get_bool("transpose");
    let at_weight = |k: usize, j: usize| if transposed { j * columns + k } else { k * columns + j };
    let at_x = |n: usize, k: usize| x[n * inner + k];
    vec![Values::Float(product([count, inner, outer], at_x, |k, j| weight[at_weight(k, j)]))]
}

//! The matrix product.

use super::call::Call;
use super::tensor::Values;

/// a [M, K] times b [K, N]; `at` gives the position of an element of each.
pub(super) fn product(
    [m, inner, n]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for (i, row) in out.chunks_exact_mut(n).enumerate() {
        for k in 0..inner {
            let factor = a(i, k);
            for (j, sum) in row.iter_mut().enumerate() {
                *sum += factor * b(k, j);
            }
        }
    }
    out
}

pub(super) fn matmul(call: &Call<'_>) -> Vec<Values> {
    let (transpose_a, transpose_b) = (call.attrs.get_bool("transpose_a"), call.attrs.get_bool("transpose_b"));
    let (shape_a, shape_b) = (call.shape(0), call.shape(1));
    let rank = shape_a.len();
    let [rows_a, columns_a] = [shape_a[rank - 2], shape_a[rank - 1]];
    let columns_b = shape_b[rank - 1];
    let (m, inner) = if transpose_a { (columns_a, rows_a) } else { (rows_a, columns_a) };
    let n = call.results[0].shape[rank - 1];
    let at_a = |i: usize, k: usize| if transpose_a { k * columns_a + i } else { i * columns_a + k };
    let at_b = |k: usize, j: usize| if transpose_b { j * columns_b + k } else { k * columns_b + j };
    let matrices = call.floats(0).chunks_exact(m * inner).zip(call.floats(1).chunks_exact(inner * n));
    let out = matrices.flat_map(|(a, b)| product([m, inner, n], |i, k| a[at_a(i, k)], |k, j| b[at_b(k, j)]));
    vec![Values::Float(out.collect())]
}

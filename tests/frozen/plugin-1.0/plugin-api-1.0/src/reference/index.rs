//! Ops whose positions are run-time values.

use super::call::Call;
use super::shape::{positions, strides};
use super::tensor::Values;

/// Where the rows begin that the indices name, an index beyond the last being taken as the last.
fn row_starts(indices: &[u32], rows: usize, length: usize) -> impl Iterator<Item = usize> {
    indices.iter().map(move |&index| (index as usize).min(rows - 1) * length)
}

pub(super) fn gather(call: &Call<'_>) -> Vec<Values> {
    let table = call.shape(0);
    let length: usize = table[1..].iter().product();
    let starts = row_starts(call.u32s(1), table[0], length);
    let from: Vec<_> = starts.flat_map(|start| start..start + length).collect();
    vec![call.operands[0].values().at(&from)]
}

pub(super) fn scatter_add(call: &Call<'_>) -> Vec<Values> {
    let base = call.shape(0);
    let length: usize = base[1..].iter().product();
    let mut sums = call.floats(0).to_vec();
    let starts = row_starts(call.u32s(1), base[0], length);
    for (start, update) in starts.zip(call.floats(2).chunks_exact(length)) {
        sums[start..start + length].iter_mut().zip(update).for_each(|(sum, x)| *sum += x);
    }
    vec![Values::Float(sums)]
}

pub(super) fn dynamic_slice(call: &Call<'_>) -> Vec<Values> {
    let (axis, size) = (call.attrs.get_int("axis"), call.attrs.get_int("size"));
    let from = strides(call.shape(0));
    let start = call.position(1).min(call.shape(0)[axis] - size);
    vec![call.operands[0].values().at(&positions(&call.results[0].shape, &from, start * from[axis]))]
}

pub(super) fn update_slice(call: &Call<'_>) -> Vec<Values> {
    let axis = call.attrs.get_int("axis");
    let to = strides(call.shape(0));
    let start = call.position(2).min(call.shape(0)[axis] - call.shape(1)[axis]);
    let mut values = call.operands[0].values().clone();
    values.put(&positions(call.shape(1), &to, start * to[axis]), call.operands[1].values());
    vec![values]
}

//! Ops that make values from nothing or move elements without changing them.

use super::call::Call;
use super::tensor::Values;
use crate::program::DType;

/// How far apart neighbours along each dimension lie.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The positions, in row-major order, of a block of that shape that begins at `offset` and whose neighbours
/// along each dimension lie `strides` apart.
pub(super) fn positions(shape: &[usize], strides: &[usize], offset: usize) -> Vec<usize> {
    let mut positions = vec![offset];
    for (&length, &stride) in shape.iter().zip(strides) {
        positions = positions.iter().flat_map(|&at| (0..length).map(move |i| at + i * stride)).collect();
    }
    positions
}

/// Where the block at `start` begins.
pub(super) fn offset(start: &[usize], strides: &[usize]) -> usize {
    start.iter().zip(strides).map(|(start, stride)| start * stride).sum()
}

pub(super) fn constant(call: &Call<'_>) -> Vec<Values> {
    let value = call.attrs.get_float("value");
    vec![match call.results[0].dtype {
        DType::U32 => Values::U32(vec![value as u32]),
        DType::Bool => Values::Bool(vec![value != 0.0]),
        _ => Values::Float(vec![value]),
    }]
}

pub(super) fn iota(call: &Call<'_>) -> Vec<Values> {
    let (ty, axis) = (call.results[0], call.attrs.get_int("axis"));
    let mut along = vec![0; ty.rank()];
    along[axis] = 1;
    let indices = positions(&ty.shape, &along, 0);
    vec![match ty.dtype {
        DType::U32 => Values::U32(indices.into_iter().map(|i| i as u32).collect()),
        _ => Values::Float(indices.into_iter().map(|i| i as f64).collect()),
    }]
}

pub(super) fn reshape(call: &Call<'_>) -> Vec<Values> {
    vec![call.operands[0].values().clone()]
}

pub(super) fn permute(call: &Call<'_>) -> Vec<Values> {
    let from = strides(call.shape(0));
    let permuted: Vec<_> = call.attrs.get_ints("perm").iter().map(|&dim| from[dim]).collect();
    vec![call.operands[0].values().at(&positions(&call.results[0].shape, &permuted, 0))]
}

pub(super) fn broadcast(call: &Call<'_>) -> Vec<Values> {
    let (from, to) = (call.shape(0), &call.results[0].shape);
    let new = to.len() - from.len();
    let mut repeated = vec![0; to.len()];
    for (i, stride) in strides(from).into_iter().enumerate() {
        repeated[new + i] = if from[i] == 1 { 0 } else { stride };
    }
    vec![call.operands[0].values().at(&positions(to, &repeated, 0))]
}

pub(super) fn slice(call: &Call<'_>) -> Vec<Values> {
    let from = strides(call.shape(0));
    let begin = offset(&call.attrs.get_ints("start"), &from);
    vec![call.operands[0].values().at(&positions(&call.results[0].shape, &from, begin))]
}

pub(super) fn pad(call: &Call<'_>) -> Vec<Values> {
    let (ty, value) = (call.results[0], call.attrs.get_float("value"));
    let mut values = match ty.dtype {
        DType::U32 => Values::U32(vec![value as u32; ty.elements()]),
        DType::Bool => Values::Bool(vec![value != 0.0; ty.elements()]),
        _ => Values::Float(vec![value; ty.elements()]),
    };
    let to = strides(&ty.shape);
    let begin = offset(&call.attrs.get_ints("low"), &to);
    values.put(&positions(call.shape(0), &to, begin), call.operands[0].values());
    vec![values]
}

pub(super) fn concat(call: &Call<'_>) -> Vec<Values> {
    let (ty, axis) = (call.results[0], call.attrs.get_int("axis"));
    let to = strides(&ty.shape);
    let mut values = Values::zeros(ty.dtype, ty.elements());
    let mut start = 0;
    for operand in &call.operands {
        let shape = &operand.ty().shape;
        values.put(&positions(shape, &to, start * to[axis]), operand.values());
        start += shape[axis];
    }
    vec![values]
}

//! Softmax over the last dimension.

use super::{float, last_dim, same};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::types::{DType, TensorType};

pub(crate) fn infer_softmax(types: &[TensorType], _: &Attrs) -> Result<Vec<TensorType>, String> {
    float(&types[0], "x")?;
    last_dim(&types[0], "x")?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_softmax_grad(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    same(&types[0], &types[1], "y and dy")?;
    infer_softmax(types, attrs)
}

pub(crate) fn decompose_softmax(b: &mut Builder, operands: &[ValueId], _: &Attrs) -> Vec<ValueId> {
    let ty = b.ty(operands[0]).clone();
    let last = ty.rank().saturating_sub(1);
    let x = b.cast(operands[0], DType::F32);
    let max = b.reduce_max(x, &[last]);
    let shifted = b.sub_broadcast(x, max);
    let exp = b.exp(shifted);
    let sum = b.reduce_sum(exp, &[last]);
    let y = b.div_broadcast(exp, sum);
    vec![b.cast(y, ty.dtype)]
}

pub(crate) fn decompose_softmax_grad(b: &mut Builder, operands: &[ValueId], _: &Attrs) -> Vec<ValueId> {
    let ty = b.ty(operands[0]).clone();
    let last = ty.rank().saturating_sub(1);
    let y = b.cast(operands[0], DType::F32);
    let dy = b.cast(operands[1], DType::F32);
    let product = b.mul(y, dy);
    let sum = b.reduce_sum(product, &[last]);
    let centred = b.sub_broadcast(dy, sum);
    let dx = b.mul(y, centred);
    vec![b.cast(dx, ty.dtype)]
}

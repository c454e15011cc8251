//! RMS norm and layer norm.

use super::{expect_shape, float, last_dim, same};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::types::{DType, TensorType};

type Types = Result<Vec<TensorType>, String>;

fn weighted(x: &TensorType, weights: &[TensorType]) -> Result<(), String> {
    float(x, "x")?;
    let channels = last_dim(x, "x")?;
    for weight in weights {
        float(weight, "weight")?;
        expect_shape(weight, &[channels], "weight")?;
    }
    Ok(())
}

pub(crate) fn infer_rms_norm(types: &[TensorType], _: &Attrs) -> Types {
    weighted(&types[0], &types[1..])?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_rms_norm_grad(types: &[TensorType], _: &Attrs) -> Types {
    weighted(&types[0], &types[1..2])?;
    same(&types[0], &types[2], "x and dy")?;
    Ok(vec![types[0].clone(), types[1].clone()])
}

pub(crate) fn infer_layer_norm(types: &[TensorType], _: &Attrs) -> Types {
    weighted(&types[0], &types[1..])?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_layer_norm_grad(types: &[TensorType], _: &Attrs) -> Types {
    weighted(&types[0], &types[1..2])?;
    same(&types[0], &types[2], "x and dy")?;
    Ok(vec![types[0].clone(), types[1].clone(), types[1].clone()])
}

/// x and its reciprocal root mean square (with eps), in f32.
fn rms(b: &mut Builder, x: ValueId, eps: f64) -> (ValueId, ValueId) {
    let last = b.ty(x).rank().saturating_sub(1);
    let x = b.cast(x, DType::F32);
    let squares = b.mul(x, x);
    let mean = b.mean_last(squares, last);
    let shifted = b.add_scalar(mean, eps);
    (x, b.rsqrt(shifted))
}

fn centred(b: &mut Builder, x: ValueId) -> ValueId {
    let last = b.ty(x).rank().saturating_sub(1);
    let x = b.cast(x, DType::F32);
    let mean = b.mean_last(x, last);
    b.sub_broadcast(x, mean)
}

pub(crate) fn decompose_rms_norm(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let (x, r) = rms(b, operands[0], attrs.get_float("eps"));
    let normed = b.mul_broadcast(x, r);
    let weight = b.cast(operands[1], DType::F32);
    let y = b.mul_broadcast(normed, weight);
    vec![b.cast(y, dtype)]
}

/// dx for y = n * w with n = x * r: r * (dn - n * mean(dn * n)), and the column sums dw, all in f32.
fn normed_grad(b: &mut Builder, n: ValueId, r: ValueId, weight: ValueId, dy: ValueId) -> (ValueId, ValueId) {
    let shape = b.shape(n);
    let last = shape.len().saturating_sub(1);
    let w = b.cast(weight, DType::F32);
    let dn = b.mul_broadcast(dy, w);
    let product = b.mul(dn, n);
    let mean = b.mean_last(product, last);
    let along = b.mul_broadcast(n, mean);
    let across = b.sub(dn, along);
    let dx = b.mul_broadcast(across, r);
    let dyn_ = b.mul(dy, n);
    (dx, b.sum_rows(dyn_))
}

pub(crate) fn decompose_rms_norm_grad(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let (dtype, weight_dtype) = (b.dtype(operands[0]), b.dtype(operands[1]));
    let (x, r) = rms(b, operands[0], attrs.get_float("eps"));
    let n = b.mul_broadcast(x, r);
    let dy = b.cast(operands[2], DType::F32);
    let (dx, dw) = normed_grad(b, n, r, operands[1], dy);
    vec![b.cast(dx, dtype), b.cast(dw, weight_dtype)]
}

pub(crate) fn decompose_layer_norm(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let c = centred(b, operands[0]);
    let (c, r) = rms(b, c, attrs.get_float("eps"));
    let normed = b.mul_broadcast(c, r);
    let weight = b.cast(operands[1], DType::F32);
    let bias = b.cast(operands[2], DType::F32);
    let scaled = b.mul_broadcast(normed, weight);
    let y = b.add_broadcast(scaled, bias);
    vec![b.cast(y, dtype)]
}

pub(crate) fn decompose_layer_norm_grad(
    b: &mut Builder,
    operands: &[ValueId],
    attrs: &Attrs,
) -> Vec<ValueId> {
    let (dtype, weight_dtype) = (b.dtype(operands[0]), b.dtype(operands[1]));
    let last = b.ty(operands[0]).rank().saturating_sub(1);
    let c = centred(b, operands[0]);
    let (c, r) = rms(b, c, attrs.get_float("eps"));
    let n = b.mul_broadcast(c, r);
    let dy = b.cast(operands[2], DType::F32);
    let (dc, dw) = normed_grad(b, n, r, operands[1], dy);
    // The mean is subtracted in the forward op, so the gradient has none either.
    let mean = b.mean_last(dc, last);
    let dx = b.sub_broadcast(dc, mean);
    let dbias = b.sum_rows(dy);
    vec![b.cast(dx, dtype), b.cast(dw, weight_dtype), b.cast(dbias, weight_dtype)]
}

//! Cross entropy, with and without the head's product.

use super::{dims, expect, float};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};

fn rows(targets: &TensorType, weights: &TensorType, count: usize) -> Result<(), String> {
    expect(targets, DType::U32, &[count], "targets")?;
    expect(weights, DType::F32, &[count], "weights")
}

pub(crate) fn infer_cross_entropy(types: &[TensorType], _: &Attrs) -> Result<Vec<TensorType>, String> {
    float(&types[0], "logits")?;
    let [count, _] = *dims::<2>(&types[0], "logits")?;
    rows(&types[1], &types[2], count)?;
    Ok(vec![TensorType::scalar(DType::F32), types[0].clone()])
}

pub(crate) fn infer_linear_cross_entropy(types: &[TensorType], _: &Attrs) -> Result<Vec<TensorType>, String> {
    let (x, weight) = (&types[0], &types[1]);
    float(x, "x")?;
    let [count, channels] = *dims::<2>(x, "x")?;
    let [classes, _] = *dims::<2>(weight, "weight")?;
    expect(weight, x.dtype, &[classes, channels], "weight")?;
    rows(&types[2], &types[3], count)?;
    Ok(vec![TensorType::scalar(DType::F32), x.clone(), weight.clone()])
}

pub(crate) fn decompose_cross_entropy(b: &mut Builder, operands: &[ValueId], _: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let [count, classes] = b.dims::<2>(operands[0]);
    let logits = b.cast(operands[0], DType::F32);
    let max = b.reduce_max(logits, &[1]);
    let shifted = b.sub_broadcast(logits, max);
    let exp = b.exp(shifted);
    let sum = b.reduce_sum(exp, &[1]);
    let hot = one_hot(b, operands[1], count, classes);
    let zero = b.full_like(0.0, shifted);
    let chosen = b.select(hot, shifted, zero);
    let chosen = b.reduce_sum(chosen, &[1]);
    let log = b.log(sum);
    let losses = b.sub(log, chosen);
    let weights = b.reshape(operands[2], &[count, 1]);
    let weighted = b.mul(losses, weights);
    let loss = b.sum_all(weighted);
    let probability = b.div_broadcast(exp, sum);
    let hot = b.cast(hot, DType::F32);
    let difference = b.sub(probability, hot);
    let dlogits = b.mul_broadcast(difference, weights);
    vec![loss, b.cast(dlogits, dtype)]
}

/// bool[N, V]: true at each row's target, or at V - 1 if the target is beyond it.
fn one_hot(b: &mut Builder, targets: ValueId, count: usize, classes: usize) -> ValueId {
    let last = b.full((classes - 1) as f64, &TensorType::new(DType::U32, &[count]));
    let targets = b.apply(Op::Min, &[targets, last], Attrs::none());
    let targets = b.reshape(targets, &[count, 1]);
    let targets = b.broadcast(targets, &[count, classes]);
    let index = b.iota(DType::U32, &[count, classes], 1);
    b.compare("eq", index, targets)
}

pub(crate) fn decompose_linear_cross_entropy(
    b: &mut Builder,
    operands: &[ValueId],
    _: &Attrs,
) -> Vec<ValueId> {
    let (x, weight) = (operands[0], operands[1]);
    let dtype = b.dtype(x);
    // The logits stay in f32 between the product and the softmax, as in the whole op.
    let (wide_x, wide_weight) = (b.cast(x, DType::F32), b.cast(weight, DType::F32));
    let logits = b.matmul(wide_x, wide_weight, false, true);
    let inner = [logits, operands[2], operands[3]];
    let [loss, dlogits] = b.push(Op::CrossEntropy, &inner, Attrs::none())[..] else {
        return operands[..3].to_vec();
    };
    let dx = b.matmul(dlogits, wide_weight, false, false);
    let dweight = b.matmul(dlogits, wide_x, true, false);
    vec![loss, b.cast(dx, dtype), b.cast(dweight, dtype)]
}

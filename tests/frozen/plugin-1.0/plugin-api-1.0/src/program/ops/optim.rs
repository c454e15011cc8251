//! The optimizer's ops.

use super::{expect, float};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::types::{DType, TensorType};

pub(crate) fn infer_sum_squares(types: &[TensorType], _: &Attrs) -> Result<Vec<TensorType>, String> {
    float(&types[0], "x")?;
    Ok(vec![TensorType::scalar(DType::F32)])
}

pub(crate) fn decompose_sum_squares(b: &mut Builder, operands: &[ValueId], _: &Attrs) -> Vec<ValueId> {
    let x = b.cast(operands[0], DType::F32);
    let squares = b.mul(x, x);
    vec![b.sum_all(squares)]
}

pub(crate) fn infer_adamw(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let shape = &types[0].shape;
    for (ty, what) in types[..4].iter().zip(["param", "m", "v", "grad"]) {
        expect(ty, DType::F32, shape, what)?;
    }
    for (ty, what) in types[4..].iter().zip(["scale", "lr", "correction1", "correction2"]) {
        expect(ty, DType::F32, &[], what)?;
    }
    for beta in ["beta1", "beta2"] {
        let value = attrs.get_float(beta);
        if !(0.0..1.0).contains(&value) {
            return Err(format!("{beta} is {value}; expected at least 0 and less than 1"));
        }
    }
    Ok(types[..3].to_vec())
}

pub(crate) fn decompose_adamw(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let &[param, m, v, grad, scale, lr, correction1, correction2] = operands else {
        return operands.to_vec();
    };
    let [beta1, beta2, eps, decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| attrs.get_float(name));
    let g = b.mul_broadcast(grad, scale);
    let m = moving(b, m, g, beta1);
    let square = b.mul(g, g);
    let v = moving(b, v, square, beta2);
    let root = b.sqrt(v);
    let root_correction = b.sqrt(correction2);
    let corrected = b.div_broadcast(root, root_correction);
    let below = b.add_scalar(corrected, eps);
    let direction = b.div(m, below);
    let rate = b.div(lr, correction1);
    let change = b.mul_broadcast(direction, rate);
    let shrink = b.scale(lr, -decay);
    let keep = b.add_scalar(shrink, 1.0);
    let kept = b.mul_broadcast(param, keep);
    vec![b.sub(kept, change), m, v]
}

fn moving(b: &mut Builder, old: ValueId, new: ValueId, beta: f64) -> ValueId {
    let old = b.scale(old, beta);
    let new = b.scale(new, 1.0 - beta);
    b.add(old, new)
}

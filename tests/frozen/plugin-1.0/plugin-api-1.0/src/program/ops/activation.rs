//! Activations and their gated forms.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::{float, same};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::types::{DType, TensorType};

type Types = Result<Vec<TensorType>, String>;

/// The cubic term of the tanh form of GELU.
const CUBIC: f64 = 0.044715;

pub(crate) fn infer_activation(types: &[TensorType], _: &Attrs) -> Types {
    float(&types[0], "x")?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_activation_grad(types: &[TensorType], attrs: &Attrs) -> Types {
    same(&types[0], &types[1], "x and dy")?;
    infer_activation(types, attrs)
}

pub(crate) fn infer_gated(types: &[TensorType], attrs: &Attrs) -> Types {
    same(&types[0], &types[1], "gate and up")?;
    infer_activation(types, attrs)
}

pub(crate) fn infer_gated_grad(types: &[TensorType], attrs: &Attrs) -> Types {
    same(&types[0], &types[2], "gate and dy")?;
    infer_gated(types, attrs)?;
    Ok(vec![types[0].clone(), types[1].clone()])
}

/// The activation of an f32 value and, if asked, its derivative.
fn activation(b: &mut Builder, x: ValueId, kind: &str, derivative: bool) -> (ValueId, Option<ValueId>) {
    match kind {
        "silu" => silu(b, x, derivative),
        "gelu" => gelu(b, x, derivative),
        _ => gelu_tanh(b, x, derivative),
    }
}

fn silu(b: &mut Builder, x: ValueId, derivative: bool) -> (ValueId, Option<ValueId>) {
    let minus = b.neg(x);
    let exp = b.exp(minus);
    let below = b.add_scalar(exp, 1.0);
    let one = b.full_like(1.0, x);
    let sigmoid = b.div(one, below);
    let y = b.mul(x, sigmoid);
    // s + x s (1 - s) = s (1 + x - y)
    let slope = derivative.then(|| {
        let rest = b.sub(x, y);
        let rest = b.add_scalar(rest, 1.0);
        b.mul(sigmoid, rest)
    });
    (y, slope)
}

fn gelu(b: &mut Builder, x: ValueId, derivative: bool) -> (ValueId, Option<ValueId>) {
    let scaled = b.scale(x, FRAC_1_SQRT_2);
    let erf = b.erf(scaled);
    let above = b.add_scalar(erf, 1.0);
    let cdf = b.scale(above, 0.5);
    let y = b.mul(x, cdf);
    let slope = derivative.then(|| {
        let square = b.mul(x, x);
        let exponent = b.scale(square, -0.5);
        let exp = b.exp(exponent);
        let density = b.scale(exp, 1.0 / (2.0 * PI).sqrt());
        let along = b.mul(x, density);
        b.add(cdf, along)
    });
    (y, slope)
}

fn gelu_tanh(b: &mut Builder, x: ValueId, derivative: bool) -> (ValueId, Option<ValueId>) {
    let root = (2.0 / PI).sqrt();
    let square = b.mul(x, x);
    let scaled = b.scale(square, CUBIC);
    let factor = b.add_scalar(scaled, 1.0);
    let inner = b.mul(x, factor);
    let inner = b.scale(inner, root);
    let tanh = b.tanh(inner);
    let above = b.add_scalar(tanh, 1.0);
    let half = b.scale(above, 0.5);
    let y = b.mul(x, half);
    // (1 + t)/2 + x/2 (1 - t^2) root (1 + 3 cubic x^2)
    let slope = derivative.then(|| {
        let tanh_square = b.mul(tanh, tanh);
        let minus = b.neg(tanh_square);
        let dtanh = b.add_scalar(minus, 1.0);
        let triple = b.scale(square, 3.0 * CUBIC);
        let dinner = b.add_scalar(triple, 1.0);
        let product = b.mul(dtanh, dinner);
        let along = b.mul(x, product);
        let along = b.scale(along, 0.5 * root);
        b.add(half, along)
    });
    (y, slope)
}

pub(crate) fn decompose_activation(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let x = b.cast(operands[0], DType::F32);
    let (y, _) = activation(b, x, attrs.get_word("kind"), false);
    vec![b.cast(y, dtype)]
}

pub(crate) fn decompose_activation_grad(
    b: &mut Builder,
    operands: &[ValueId],
    attrs: &Attrs,
) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let x = b.cast(operands[0], DType::F32);
    let dy = b.cast(operands[1], DType::F32);
    let (y, slope) = activation(b, x, attrs.get_word("kind"), true);
    let dx = b.mul(dy, slope.unwrap_or(y));
    vec![b.cast(dx, dtype)]
}

pub(crate) fn decompose_gated(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let gate = b.cast(operands[0], DType::F32);
    let up = b.cast(operands[1], DType::F32);
    let (y, _) = activation(b, gate, attrs.get_word("kind"), false);
    let product = b.mul(y, up);
    vec![b.cast(product, dtype)]
}

pub(crate) fn decompose_gated_grad(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let [gate, up, dy] = [0, 1, 2].map(|i| b.cast(operands[i], DType::F32));
    let (y, slope) = activation(b, gate, attrs.get_word("kind"), true);
    let dup = b.mul(dy, y);
    let into = b.mul(dy, up);
    let dgate = b.mul(into, slope.unwrap_or(y));
    vec![b.cast(dgate, dtype), b.cast(dup, dtype)]
}

//! Activations, gated and not, and their gradients.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::Op;
use rayon::prelude::*;

use super::{floats, result};
use crate::ops::Step;

/// Value and derivative at x.
type Activation = fn(f32) -> (f32, f32);

fn silu(x: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + (-x).exp());
    (x * s, s * (1.0 + x * (1.0 - s)))
}

fn gelu(x: f32) -> (f32, f32) {
    const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
    // In f64: where the value nearly vanishes, so does the precision of 1 + erf.
    let cdf =
        (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32;
    (x * cdf, cdf + x * INVERSE_ROOT_TAU * (-0.5 * x * x).exp())
}

fn gelu_tanh(x: f32) -> (f32, f32) {
    const ROOT_TWO_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let t = (ROOT_TWO_OVER_PI * (x * (1.0 + CUBIC * x * x))).tanh();
    let half = 0.5 * (1.0 + t);
    (x * half, half + 0.5 * ROOT_TWO_OVER_PI * x * ((1.0 - t * t) * (1.0 + 3.0 * CUBIC * x * x)))
}

fn activation(step: &Step) -> Activation {
    match step.attrs.get_word("kind") {
        "silu" => silu,
        "gelu" => gelu,
        _ => gelu_tanh,
    }
}

/// All but the gradient of the gated ones.
pub fn run(step: &Step) -> Result<Tensor> {
    let f = activation(step);
    let mut x = floats(step.operands[0])?;
    let other = step.operands.get(1).map(|other| floats(other)).transpose()?;
    match (step.op, &other) {
        (Op::ActivationGrad, Some(dy)) => x.par_iter_mut().zip(dy).for_each(|(x, dy)| *x = dy * f(*x).1),
        (_, Some(up)) => x.par_iter_mut().zip(up).for_each(|(x, up)| *x = f(*x).0 * up),
        (_, None) => x.par_iter_mut().for_each(|x| *x = f(*x).0),
    }
    result(step, 0, x)
}

pub fn gated_grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let f = activation(step);
    let [mut gate, mut up, dy] = [0, 1, 2]
        .map(|i| floats(step.operands[i]))
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .try_into()
        .map_err(|_| candle_core::Error::Msg("a gradient of a gate wants three operands".into()))?;
    gate.par_iter_mut().zip(&mut up).zip(&dy).for_each(|((gate, up), dy)| {
        let (y, slope) = f(*gate);
        (*gate, *up) = (dy * *up * slope, dy * y);
    });
    Ok(vec![Some(result(step, 0, gate)?), Some(result(step, 1, up)?)])
}

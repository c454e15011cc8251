//! Activations and their gated forms.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::call::Call;
use super::special::erf;
use super::tensor::Values;

/// The activation of x and its derivative.
fn activate(kind: &str, x: f64) -> (f64, f64) {
    match kind {
        "silu" => {
            let below = 1.0 + (-x).exp();
            (x / below, (1.0 + x * (1.0 - 1.0 / below)) / below)
        }
        "gelu" => {
            let cdf = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            (x * cdf, cdf + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt())
        }
        _ => {
            let root = (2.0 / PI).sqrt();
            let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
            let dinner = root * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * dinner)
        }
    }
}

fn each(call: &Call<'_>, f: impl Fn(usize, (f64, f64)) -> f64) -> Values {
    let kind = call.attrs.get_word("kind");
    Values::Float(call.floats(0).iter().enumerate().map(|(i, &x)| f(i, activate(kind, x))).collect())
}

pub(super) fn activation(call: &Call<'_>) -> Vec<Values> {
    vec![each(call, |_, (y, _)| y)]
}

pub(super) fn activation_grad(call: &Call<'_>) -> Vec<Values> {
    let dy = call.floats(1);
    vec![each(call, |i, (_, slope)| dy[i] * slope)]
}

pub(super) fn gated(call: &Call<'_>) -> Vec<Values> {
    let up = call.floats(1);
    vec![each(call, |i, (y, _)| y * up[i])]
}

pub(super) fn gated_grad(call: &Call<'_>) -> Vec<Values> {
    let (up, dy) = (call.floats(1), call.floats(2));
    vec![each(call, |i, (_, slope)| dy[i] * up[i] * slope), each(call, |i, (y, _)| dy[i] * y)]
}

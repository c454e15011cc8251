//! Activations and gated activations with their gradients.

use finetune_plugin_api::program::Op;

use super::{BLOCK, Step, blocks};
use crate::simd::{self, vectorized};

/// Value and derivative.
trait Activation: Sync {
    fn value(x: f32) -> f32;
    fn both(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;

impl Activation for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * simd::sigmoid(x)
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let s = simd::sigmoid(x);
        let y = x * s;
        (y, s * (1.0 + (x - y)))
    }
}

impl Activation for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * (0.5 * (1.0 + simd::erf(x * std::f32::consts::FRAC_1_SQRT_2)))
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
        let cdf = 0.5 * (1.0 + simd::erf(x * std::f32::consts::FRAC_1_SQRT_2));
        let density = INVERSE_ROOT_TAU * simd::exp(-0.5 * x * x);
        (x * cdf, x.mul_add(density, cdf))
    }
}

const ROOT_TWO_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

impl Activation for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        let t = simd::tanh(ROOT_TWO_OVER_PI * (x * (1.0 + CUBIC * x * x)));
        x * (0.5 * (1.0 + t))
    }

    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let square = x * x;
        let t = simd::tanh(ROOT_TWO_OVER_PI * (x * (1.0 + CUBIC * square)));
        let half = 0.5 * (1.0 + t);
        let slope = 0.5 * ROOT_TWO_OVER_PI * x * ((1.0 - t * t) * (1.0 + 3.0 * CUBIC * square));
        (x * half, half + slope)
    }
}

pub fn plain(step: &mut Step) {
    match step.attrs.get_word("kind") {
        "silu" => plain_as::<Silu>(step),
        "gelu" => plain_as::<Gelu>(step),
        _ => plain_as::<GeluTanh>(step),
    }
}

pub fn gated(step: &mut Step) {
    match step.attrs.get_word("kind") {
        "silu" => gated_as::<Silu>(step),
        "gelu" => gated_as::<Gelu>(step),
        _ => gated_as::<GeluTanh>(step),
    }
}

vectorized! {
    fn values[A: Activation](x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = A::value(*x));
    }
}

vectorized! {
    /// dy times the slope at x, into x.
    fn slopes[A: Activation](x: &mut [f32], dy: &[f32]) {
        x.iter_mut().zip(dy).for_each(|(x, dy)| *x = dy * A::both(*x).1);
    }
}

vectorized! {
    fn gates[A: Activation](gate: &mut [f32], up: &[f32]) {
        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = A::value(*gate) * up);
    }
}

vectorized! {
    /// The gradients of gate and up, in their places.
    fn gate_grads[A: Activation](gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let (y, slope) = A::both(*gate);
            (*gate, *up) = (dy * *up * slope, dy * y);
        }
    }
}

fn plain_as<A: Activation>(step: &mut Step) {
    let Some(y) = step.out() else { return };
    let x = &step.src[0];
    let dy = (step.op == Op::ActivationGrad).then(|| &step.src[1]);
    blocks(y.elements(), |start, count| {
        let (mut a, mut b) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (a, b) = (&mut a[..count], &mut b[..count]);
        x.load(start, a);
        match dy {
            None => values::<A>(a),
            Some(dy) => {
                dy.load(start, b);
                slopes::<A>(a, b);
            }
        }
        y.store(start, a);
    });
}

fn gated_as<A: Activation>(step: &mut Step) {
    let [gate, up, rest @ ..] = &step.src[..] else { return };
    let elements = gate.elements();
    blocks(elements, |start, count| {
        let (mut a, mut b, mut c) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
        let (a, b, c) = (&mut a[..count], &mut b[..count], &mut c[..count]);
        gate.load(start, a);
        up.load(start, b);
        let Some(dy) = rest.first() else {
            gates::<A>(a, b);
            step.dst[0].iter().for_each(|y| y.store(start, a));
            return;
        };
        dy.load(start, c);
        gate_grads::<A>(a, b, c);
        step.dst[0].iter().for_each(|dgate| dgate.store(start, a));
        step.dst[1].iter().for_each(|dup| dup.store(start, b));
    });
}

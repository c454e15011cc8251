//! Arguments for composite ops but attention.

use super::{FLOATS, Norm, Variant, given, numbers};
use crate::conformance::Random;
use crate::program::{Attrs, DType, Op};
use crate::reference::{Call, Tensor, evaluate};

const KINDS: [&str; 3] = ["silu", "gelu", "gelu_tanh"];

fn none() -> Attrs {
    Attrs::none()
}

pub(super) fn softmax(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for shape in [&[1][..], &[3, 5], &[2, 129], &[2, 3, 257]] {
            variants.push(Variant::new("", vec![rng.floats(dtype, shape, -8.0, 8.0)], none()));
        }
        let large = rng.floats(dtype, &[2, 33], 100.0, 300.0);
        variants.push(Variant::new("beyond the range of exp ", vec![large], none()));
        let hidden = given(dtype, &[1.0, f64::NEG_INFINITY, 0.5]);
        variants.push(Variant::new("-inf ", vec![hidden], none()));
    }
    variants
}

pub(super) fn softmax_grad(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for shape in [&[1][..], &[3, 5], &[2, 129], &[2, 3, 257]] {
            let x = rng.floats(dtype, shape, -3.0, 3.0);
            let call = Call { attrs: &none(), operands: vec![&x], results: vec![x.ty()] };
            let y = evaluate(Op::Softmax, &call).remove(0).rounded();
            let dy = rng.floats(dtype, shape, -2.0, 2.0);
            variants.push(Variant::new("", vec![y, dy], none()));
        }
    }
    variants
}

pub(super) fn norm(rng: &mut Random, operands: &[Norm]) -> Vec<Variant> {
    let mut variants = Vec::new();
    for (dtype, weight_dtype) in
        FLOATS.map(|dtype| (dtype, dtype)).into_iter().chain([(DType::Bf16, DType::F32)])
    {
        for shape in [&[5][..], &[3, 8], &[2, 3, 129], &[2, 257]] {
            for eps in [1e-5, 0.1] {
                let operands = operands.iter().map(|operand| match operand {
                    Norm::X => rng.floats(dtype, shape, -2.0, 3.0),
                    Norm::Weight => rng.floats(weight_dtype, &shape[shape.len() - 1..], 0.5, 1.5),
                });
                variants.push(Variant::new("", operands.collect(), none().float("eps", eps)));
            }
        }
    }
    variants
}

/// Batch, length, heads, channels, half of the turned channels.
const ROPES: [[usize; 5]; 5] =
    [[2, 3, 2, 8, 4], [1, 5, 3, 10, 3], [1, 1, 1, 2, 1], [2, 4, 2, 128, 64], [1, 3, 2, 7, 2]];

pub(super) fn rope(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for [batch, length, heads, channels, half] in ROPES {
            for (interleaved, inverse) in [(false, false), (true, false), (false, true), (true, true)] {
                let scale = if interleaved == inverse { 1.0 } else { 1.25 };
                let frequencies: Vec<f64> =
                    (0..half).map(|i| 10000f64.powf(-(i as f64) / half as f64)).collect();
                let operands = vec![
                    rng.floats(dtype, &[batch, length, heads, channels], -2.0, 2.0),
                    rng.u32s(&[batch, length], 2000),
                    given(DType::F32, &frequencies),
                ];
                let attrs = none().bool("interleaved", interleaved).bool("inverse", inverse);
                variants.push(Variant::new("", operands, attrs.float("scale", scale)));
            }
        }
    }
    variants
}

pub(super) fn activation(operands: usize, rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for kind in KINDS {
            for shape in [&[][..], &[3, 5], &[2, 129], &[257]] {
                let operands = (0..operands).map(|_| rng.floats(dtype, shape, -6.0, 6.0)).collect();
                variants.push(Variant::new("", operands, none().word("kind", kind)));
            }
            // Where e^-x overflows; the cube in gelu_tanh amplifies the rounding of tanh so far out.
            let end = if kind == "gelu_tanh" { 20.0 } else { 100.0 };
            let far = given(dtype, &[-end, -12.0, 0.0, 12.0, end]);
            let others = (1..operands).map(|_| rng.floats(dtype, &[5], 0.5, 2.0));
            let operands = [far].into_iter().chain(others).collect();
            variants.push(Variant::new("far out ", operands, none().word("kind", kind)));
        }
    }
    variants
}

pub(super) fn dropout(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (rate, site) in [(0.0, 0), (0.1, 3), (0.5, 65535), (0.999, 1)] {
            for shape in [&[2, 3, 65][..], &[4, 6], &[129]] {
                let rows = &shape[..shape.len() - 1];
                let operands = vec![
                    rng.floats(dtype, shape, 0.5, 2.0),
                    rng.bits(&[2]),
                    rng.u32s(&[], 1000),
                    rng.bits(rows),
                    rng.u32s(rows, 2048),
                ];
                variants.push(Variant::new("", operands, none().float("rate", rate).int("site", site)));
            }
        }
    }
    variants
}

/// Targets, one beyond the last class, and weights, one 0.
fn targets(rng: &mut Random, count: usize, classes: usize) -> [Tensor; 2] {
    let mut targets = rng.u32s(&[count], classes).u32s().to_vec();
    let mut weights = rng.floats(DType::F32, &[count], 0.25, 1.5).floats().to_vec();
    if count > 2 {
        targets[0] = (classes + 3) as u32;
        weights[count - 1] = 0.0;
    }
    [numbers(&[count], &targets), given(DType::F32, &weights)]
}

pub(super) fn cross_entropy(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (count, classes) in [(4, 5), (3, 257), (1, 1), (33, 7)] {
            let logits = rng.floats(dtype, &[count, classes], -5.0, 5.0);
            let [targets, weights] = targets(rng, count, classes);
            variants.push(Variant::new("", vec![logits, targets, weights], none()));
        }
        let large = rng.floats(dtype, &[3, 6], 100.0, 300.0);
        let [targets, weights] = targets(rng, 3, 6);
        variants.push(Variant::new("beyond the range of exp ", vec![large, targets, weights], none()));
    }
    variants
}

pub(super) fn linear_cross_entropy(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (count, channels, classes) in [(4, 5, 7), (3, 33, 129), (1, 1, 1), (67, 8, 19)] {
            let x = rng.floats(dtype, &[count, channels], -1.0, 1.0);
            let weight = rng.floats(dtype, &[classes, channels], -1.0, 1.0);
            let [targets, weights] = targets(rng, count, classes);
            variants.push(Variant::new("", vec![x, weight, targets, weights], none()));
        }
    }
    variants
}

pub(super) fn sum_squares(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for shape in [&[][..], &[1], &[257], &[3, 65]] {
            variants.push(Variant::new("", vec![rng.floats(dtype, shape, -2.0, 2.0)], none()));
        }
    }
    variants
}

pub(super) fn adamw(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for shape in [&[][..], &[3, 43], &[257]] {
        for (step, weight_decay) in [(1, 0.0), (10, 0.1)] {
            let (beta1, beta2) = (0.9, 0.999);
            let [param, grad] = [1, 2].map(|_| rng.floats(DType::F32, shape, -1.0, 1.0));
            let [m, v] =
                [(-0.1, 0.1), (1e-3, 1e-2)].map(|(low, high)| rng.floats(DType::F32, shape, low, high));
            let mut operands = vec![param, m, v, grad];
            for number in [0.5, 1e-3, 1.0 - f64::powi(beta1, step), 1.0 - f64::powi(beta2, step)] {
                operands.push(rng.floats(DType::F32, &[], number, number));
            }
            let attrs = none().float("beta1", beta1).float("beta2", beta2);
            let attrs = attrs.float("eps", 1e-8).float("weight_decay", weight_decay);
            variants.push(Variant::new(format!("step {step} "), operands, attrs));
        }
    }
    variants
}

/// Packed numbers, scales and biases of a matrix [rows, columns].
fn packed(
    rng: &mut Random,
    dtype: DType,
    [rows, columns]: [usize; 2],
    bits: usize,
    group: usize,
) -> [Tensor; 3] {
    let groups = [rows, columns / group];
    [
        rng.bits(&[rows, columns * bits / 32]),
        rng.floats(dtype, &groups, 0.01, 0.1),
        rng.floats(dtype, &groups, -1.0, 0.0),
    ]
}

/// Bits, group, rows, columns.
const MATRICES: [[usize; 4]; 5] =
    [[4, 8, 3, 16], [4, 32, 5, 64], [8, 4, 3, 12], [8, 64, 33, 128], [4, 64, 1, 64]];

pub(super) fn dequantize(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for [bits, group, rows, columns] in MATRICES {
            let operands = packed(rng, dtype, [rows, columns], bits, group).into();
            variants.push(Variant::new("", operands, none().int("bits", bits).int("group", group)));
        }
    }
    variants
}

pub(super) fn quantized_matmul(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for [bits, group, rows, columns] in MATRICES {
            for transpose in [true, false] {
                let inner = if transpose { columns } else { rows };
                let [words, scales, biases] = packed(rng, dtype, [rows, columns], bits, group);
                let operands = vec![rng.floats(dtype, &[3, inner], -1.0, 1.0), words, scales, biases];
                let attrs = none().int("bits", bits).int("group", group).bool("transpose", transpose);
                variants.push(Variant::new("", operands, attrs));
            }
        }
    }
    variants
}

//! The optimizer.

use rayon::prelude::*;

use super::{BLOCK, Step, blocks};
use crate::simd::{self, vectorized};

/// Elements of a piece of a sum of squares.
const PIECE: usize = 32 * 1024;

pub fn sum_squares(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    let elements = x.elements();
    let parts: Vec<f64> = (0..elements.div_ceil(PIECE))
        .into_par_iter()
        .map(|piece| {
            let mut scratch = [0.0; BLOCK];
            let end = ((piece + 1) * PIECE).min(elements);
            let block = |start: usize, scratch: &mut [f32]| squares(x.borrow(start, scratch));
            (piece * PIECE..end).step_by(BLOCK).map(|i| block(i, &mut scratch[..BLOCK.min(end - i)])).sum()
        })
        .collect();
    y.store(0, &[parts.iter().sum::<f64>() as f32]);
}

vectorized! {
    fn squares(x: &[f32]) -> f64 {
        simd::long_sum(x, |x| x * x)
    }
}

/// The numbers that all elements share.
struct Update {
    scale: f32,
    keep1: f32,
    add1: f32,
    keep2: f32,
    add2: f32,
    eps: f32,
    rate: f32,
    root: f32,
    shrink: f32,
}

vectorized! {
    fn adamw_block(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], u: &Update) {
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * u.scale;
            *m = *m * u.keep1 + g * u.add1;
            *v = *v * u.keep2 + (g * g) * u.add2;
            *p = *p * u.shrink - *m / (v.sqrt() / u.root + u.eps) * u.rate;
        }
    }
}

/// One pass over parameter, moments and gradient; results may lie where the operands lie.
pub fn adamw(step: &mut Step) {
    let [param, m, v, grad, scale, lr, correction1, correction2] = &step.src[..] else { return };
    let [beta1, beta2, eps, decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| step.attrs.get_float(name));
    let [scale, lr, correction1, correction2] = [scale, lr, correction1, correction2].map(|x| x.at(0));
    let update = Update {
        scale,
        keep1: beta1 as f32,
        add1: (1.0 - beta1) as f32,
        keep2: beta2 as f32,
        add2: (1.0 - beta2) as f32,
        eps: eps as f32,
        rate: lr / correction1,
        root: correction2.sqrt(),
        shrink: 1.0 + lr * (-decay as f32),
    };
    blocks(param.elements(), |start, count| {
        let mut buffers = [[0.0; BLOCK]; 4];
        for (buffer, src) in buffers.iter_mut().zip([param, m, v, grad]) {
            src.load(start, &mut buffer[..count]);
        }
        let [p, m, v, g] = &mut buffers;
        adamw_block(p, m, v, g, &update);
        for (result, values) in step.dst.iter().zip([&*p, &*m, &*v]) {
            result.iter().for_each(|result| result.store(start, &values[..count]));
        }
    });
}

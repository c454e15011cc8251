//! The optimizer.

use rayon::prelude::*;

use super::{BLOCK, Step, blocks};
use crate::simd::{self, simd};

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
            let block = |start: usize, scratch: &mut [f32]| {
                let values = x.borrow(start, scratch);
                simd(|| simd::long_sum(values, |x| x * x))
            };
            (piece * PIECE..end).step_by(BLOCK).map(|i| block(i, &mut scratch[..BLOCK.min(end - i)])).sum()
        })
        .collect();
    y.store(0, &[parts.iter().sum::<f64>() as f32]);
}

/// One pass over parameter, moments and gradient; results may lie where the operands lie.
pub fn adamw(step: &mut Step) {
    let [param, m, v, grad, scale, lr, correction1, correction2] = &step.src[..] else { return };
    let [beta1, beta2, eps, decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| step.attrs.get_float(name));
    let [scale, lr, correction1, correction2] = [scale, lr, correction1, correction2].map(|x| x.at(0));
    let (keep1, add1, keep2, add2) =
        (beta1 as f32, (1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
    let eps = eps as f32;
    let rate = lr / correction1;
    let root = correction2.sqrt();
    let shrink = 1.0 + lr * (-decay as f32);
    blocks(param.elements(), |start, count| {
        let mut buffers = [[0.0; BLOCK]; 4];
        for (buffer, src) in buffers.iter_mut().zip([param, m, v, grad]) {
            src.load(start, &mut buffer[..count]);
        }
        let [p, m, v, g] = &mut buffers;
        simd(|| {
            for (((p, m), v), g) in p.iter_mut().zip(&mut *m).zip(&mut *v).zip(&*g) {
                let g = g * scale;
                *m = *m * keep1 + g * add1;
                *v = *v * keep2 + (g * g) * add2;
                *p = *p * shrink - *m / (v.sqrt() / root + eps) * rate;
            }
        });
        for (result, values) in step.dst.iter().zip([&*p, &*m, &*v]) {
            result.iter().for_each(|result| result.store(start, &values[..count]));
        }
    });
}

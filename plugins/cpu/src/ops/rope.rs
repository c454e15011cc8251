//! Rotary position embedding.

use super::{Step, parallel, row_grain};
use crate::simd::vectorized;

pub fn run(step: &mut Step) {
    let [x, positions, inv_freq] = &step.src[..] else { return };
    let Some(y) = step.out() else { return };
    let (heads, channels) = (y.shape[2], y.shape[3]);
    let places = y.shape[0] * y.shape[1];
    let mut frequencies = vec![0.0; inv_freq.elements()];
    inv_freq.load(0, &mut frequencies);
    let half = frequencies.len();
    let interleaved = step.attrs.get_bool("interleaved");
    let scale = step.attrs.get_float("scale") as f32;
    let sign = if step.attrs.get_bool("inverse") { -scale } else { scale };
    parallel(places, row_grain(heads * channels), |range| {
        let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
        let mut row = vec![0.0; channels];
        for place in range {
            let position = positions.at_u32(place) as f32;
            for (i, frequency) in frequencies.iter().enumerate() {
                let (s, c) = (position * frequency).sin_cos();
                (cos[i], sin[i]) = (c * scale, s * sign);
            }
            for head in 0..heads {
                let at = (place * heads + head) * channels;
                x.load(at, &mut row);
                turn(&mut row, &cos, &sin, interleaved);
                y.store(at, &row);
            }
        }
    });
}

vectorized! {
    fn turn(row: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
        let half = cos.len();
        if interleaved {
            for ((pair, c), s) in row.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
            }
            return;
        }
        let (first, second) = row.split_at_mut(half);
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

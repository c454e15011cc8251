//! Rotary position embedding.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{flat, floats, result};
use crate::ops::Step;

pub fn run(step: &Step) -> Result<Tensor> {
    let (mut x, positions, frequencies) =
        (floats(step.operands[0])?, flat::<u32>(step.operands[1])?, floats(step.operands[2])?);
    let [.., heads, channels] = step.types[0].shape[..] else {
        candle_core::bail!("rope wants four dimensions")
    };
    let (half, is_interleaved) = (frequencies.len(), step.attrs.get_bool("interleaved"));
    let scale = step.attrs.get_float("scale") as f32;
    let sign = if step.attrs.get_bool("inverse") { -scale } else { scale };
    x.par_chunks_mut(heads * channels).zip(&positions).for_each(|(place, &position)| {
        let turn = |frequency: &f32| (position as f32 * frequency).sin_cos();
        let turns: Vec<(f32, f32)> =
            frequencies.iter().map(turn).map(|(s, c)| (s * sign, c * scale)).collect();
        for row in place.chunks_mut(channels) {
            for (i, (s, c)) in turns.iter().enumerate() {
                let (k, l) = if is_interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                (row[k], row[l]) = (row[k] * c - row[l] * s, row[l] * c + row[k] * s);
            }
        }
    });
    result(step, 0, x)
}

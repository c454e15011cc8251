//! Philox4x32-10 (Salmon et al. 2011), and dropout by it.

use candle_core::{Result, Tensor};
use finetune_plugin_api::reference::philox;
use rayon::prelude::*;

use super::{flat, floats, result};
use crate::ops::{Step, kept};

/// The bits of each row for seed, step, example and position.
fn rows(operands: &[&Tensor], channels: usize, site: usize) -> Result<Vec<u32>> {
    let [seed, step, example, position] = [0, 1, 2, 3].map(|i| flat::<u32>(operands[i]));
    let (seed, step, example, position) = (seed?, step?, example?, position?);
    let rows = example.par_iter().zip(&position);
    let bits = rows.flat_map_iter(|(&example, &position)| {
        let key = [seed[0], seed[1]];
        let first = (site as u32) << 16;
        let step = step[0];
        let block = move |block| philox([position, example, step, first | block as u32], key);
        (0..channels.div_ceil(4)).flat_map(block).take(channels)
    });
    Ok(bits.collect())
}

pub fn bits(step: &Step) -> Result<Tensor> {
    let bits = rows(&step.operands, step.attrs.get_int("channels"), step.attrs.get_int("site"))?;
    Tensor::from_vec(bits, step.results[0].shape.as_slice(), step.placed)
}

pub fn dropout(step: &Step) -> Result<Tensor> {
    let mut x = floats(step.operands[0])?;
    let channels = step.types[0].shape.last().copied().unwrap_or(1);
    let bits = rows(&step.operands[1..], channels, step.attrs.get_int("site"))?;
    let (least, factor) = kept(step.attrs.get_float("rate"));
    let factor = factor as f32;
    x.par_iter_mut()
        .zip(&bits)
        .for_each(|(x, &bits)| *x = if u64::from(bits) >= least { *x * factor } else { 0.0 });
    result(step, 0, x)
}

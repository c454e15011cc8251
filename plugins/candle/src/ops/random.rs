//! Philox4x32-10 (Salmon et al. 2011), and dropout by it.

use candle_core::{Result, Tensor};

use super::Step;
use crate::host;
use crate::kernel::{self, Numbers};

pub fn bits(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::random::bits(step);
    }
    let (channels, site) = (step.attrs.get_int("channels"), step.attrs.get_int("site"));
    let operands: Vec<Tensor> = (0..4).map(|i| step.flat(i)).collect::<Result<_>>()?;
    let (rows, out) = (operands[2].elem_count(), step.empty(0)?);
    let tensors: Vec<&Tensor> = operands.iter().chain([&out]).collect();
    let numbers = Numbers::new(&[rows, channels, site], &[]);
    let blocks = (rows * channels.div_ceil(4)).div_ceil(kernel::THREADS);
    kernel::launch("random_bits", &tensors, numbers, blocks, kernel::THREADS)?;
    Ok(out)
}

/// The least bits of an element that is kept, and the factor on it.
pub fn kept(rate: f64) -> (u64, f64) {
    ((rate * 4_294_967_296.0).round() as u64, 1.0 / (1.0 - rate))
}

pub fn dropout(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::random::dropout(step);
    }
    let operands: Vec<Tensor> = (0..5).map(|i| step.flat(i)).collect::<Result<_>>()?;
    let (rows, y) = (operands[3].elem_count(), step.over(0, &[0])?);
    let channels = y.elem_count() / rows;
    let (least, factor) = kept(step.attrs.get_float("rate"));
    let tensors: Vec<&Tensor> = operands.iter().chain([&y]).collect();
    let numbers = Numbers::new(&[rows, channels, step.attrs.get_int("site"), least as usize], &[factor]);
    let blocks = (rows * channels.div_ceil(4)).div_ceil(kernel::THREADS);
    let name = format!("dropout_{}", kernel::suffix(y.dtype())?);
    kernel::launch(&name, &tensors, numbers, blocks, kernel::THREADS)?;
    Ok(y)
}

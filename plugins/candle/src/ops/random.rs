//! Philox4x32-10 (Salmon et al. 2011), which candle has not.

use candle_core::{Result, Tensor};

use super::Step;
use crate::kernel;

pub fn bits(step: &Step) -> Result<Tensor> {
    let operands = [0, 1, 2, 3].map(|i| step.operands[i]);
    let words = kernel::random_bits(operands, step.attrs.get_int("channels"), step.attrs.get_int("site"))?;
    words.reshape(step.results[0].shape.as_slice())
}

//! Whole numbers and truth values.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::Op;
use finetune_plugin_api::reference::u32_binary;
use rayon::prelude::*;

use super::flat;

pub fn binary(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == CandleType::U8 {
        let pairs = flat::<u8>(a)?.into_par_iter().zip(flat::<u8>(b)?);
        let words: Vec<u8> = pairs.map(|(a, b)| u32_binary(op, a.into(), b.into()) as u8).collect();
        return Tensor::from_vec(words, a.dims(), a.device());
    }
    let pairs = flat::<u32>(a)?.into_par_iter().zip(flat::<u32>(b)?);
    let words: Vec<u32> = pairs.map(|(a, b)| u32_binary(op, a, b)).collect();
    Tensor::from_vec(words, a.dims(), a.device())
}

/// Words as a 16-bit float type, rounded once.
pub fn to_floats(x: &Tensor, to: CandleType) -> Result<Tensor> {
    let words = flat::<u32>(x)?;
    if to == CandleType::F16 {
        let floats: Vec<half::f16> = words.into_iter().map(|x| half::f16::from_f64(x.into())).collect();
        return Tensor::from_vec(floats, x.dims(), x.device());
    }
    let floats: Vec<half::bf16> = words.into_iter().map(|x| half::bf16::from_f64(x.into())).collect();
    Tensor::from_vec(floats, x.dims(), x.device())
}

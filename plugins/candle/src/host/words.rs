//! Whole numbers and truth values.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::Op;
use rayon::prelude::*;

use super::flat;

fn apply(op: Op, a: u32, b: u32) -> u32 {
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Max => a.max(b),
        Op::Min => a.min(b),
        Op::And => a & b,
        Op::Or => a | b,
        Op::Shl => a.checked_shl(b).unwrap_or(0),
        _ => a.checked_shr(b).unwrap_or(0),
    }
}

/// Wraps; a divisor of 0 gives 0, as does a shift by 32 or more.
pub fn binary(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == CandleType::U8 {
        let pairs = flat::<u8>(a)?.into_par_iter().zip(flat::<u8>(b)?);
        let words: Vec<u8> = pairs.map(|(a, b)| apply(op, a.into(), b.into()) as u8).collect();
        return Tensor::from_vec(words, a.dims(), a.device());
    }
    let pairs = flat::<u32>(a)?.into_par_iter().zip(flat::<u32>(b)?);
    let words: Vec<u32> = pairs.map(|(a, b)| apply(op, a, b)).collect();
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

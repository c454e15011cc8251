//! The kernels for the processor.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::reference::philox;
use rayon::prelude::*;

use super::Word;

fn apply(word: Word, a: u32, b: u32) -> u32 {
    match word {
        Word::Add => a.wrapping_add(b),
        Word::Sub => a.wrapping_sub(b),
        Word::Mul => a.wrapping_mul(b),
        Word::Div => a.checked_div(b).unwrap_or(0),
        Word::Max => a.max(b),
        Word::Min => a.min(b),
        Word::And => a & b,
        Word::Or => a | b,
        Word::Shl => a.checked_shl(b).unwrap_or(0),
        Word::Shr => a.checked_shr(b).unwrap_or(0),
    }
}

fn flat<T: candle_core::WithDType>(x: &Tensor) -> Result<Vec<T>> {
    x.flatten_all()?.to_vec1::<T>()
}

pub fn words(word: Word, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == CandleType::U8 {
        let pairs = flat::<u8>(a)?.into_par_iter().zip(flat::<u8>(b)?);
        let words: Vec<u8> = pairs.map(|(a, b)| apply(word, a.into(), b.into()) as u8).collect();
        return Tensor::from_vec(words, a.dims(), a.device());
    }
    let pairs = flat::<u32>(a)?.into_par_iter().zip(flat::<u32>(b)?);
    let words: Vec<u32> = pairs.map(|(a, b)| apply(word, a, b)).collect();
    Tensor::from_vec(words, a.dims(), a.device())
}

pub fn cast_words(x: &Tensor, to: CandleType) -> Result<Tensor> {
    let words = flat::<u32>(x)?;
    if to == CandleType::F16 {
        let floats: Vec<half::f16> = words.into_iter().map(|x| half::f16::from_f64(x.into())).collect();
        return Tensor::from_vec(floats, x.dims(), x.device());
    }
    let floats: Vec<half::bf16> = words.into_iter().map(|x| half::bf16::from_f64(x.into())).collect();
    Tensor::from_vec(floats, x.dims(), x.device())
}

pub fn random_bits(operands: &[Tensor], channels: usize, site: usize) -> Result<Tensor> {
    let [seed, step, example, position] = [0, 1, 2, 3].map(|i| flat::<u32>(&operands[i]));
    let (seed, step, example, position) = (seed?, step?, example?, position?);
    let rows = example.par_iter().zip(&position);
    let bits = rows.flat_map_iter(|(&example, &position)| {
        let key = [seed[0], seed[1]];
        let first = (site as u32) << 16;
        let step = step[0];
        let block = move |block| philox([position, example, step, first | block as u32], key);
        (0..channels.div_ceil(4)).flat_map(block).take(channels)
    });
    let bits: Vec<u32> = bits.collect();
    Tensor::from_vec(bits, (example.len(), channels), operands[0].device())
}

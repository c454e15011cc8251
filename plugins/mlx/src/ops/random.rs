//! Philox4x32-10 in ops of u32 and u64, and dropout with it.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::DType;

use super::{Step, rows_and_width, scalar, scalar_u32};
use crate::mlx::{self, Array, Mlx};

const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

pub fn bits(step: &Step) -> Result<Array, Error> {
    let operands = [0, 1, 2, 3].map(|i| step.operands[i]);
    let (rows, channels) = rows_and_width(&step.results[0].shape);
    let words = words(step.mlx, operands, rows, channels, step.attrs.get_int("site"))?;
    step.mlx.reshape(&words, &step.results[0].shape)
}

pub fn dropout(step: &Step) -> Result<Array, Error> {
    let mlx = step.mlx;
    let operands = [1, 2, 3, 4].map(|i| step.operands[i]);
    let shape = &step.results[0].shape;
    let (rows, channels) = rows_and_width(shape);
    let rate = step.attrs.get_float("rate");
    let words = words(mlx, operands, rows, channels, step.attrs.get_int("site"))?;
    // A rate below 1 may round to 2^32, which no bits reach.
    let threshold = (rate * 4_294_967_296.0).round();
    if threshold >= 4_294_967_296.0 {
        return mlx.zeros(shape, step.results[0].dtype);
    }
    let kept = mlx.reshape(&mlx.ge(&words, &scalar_u32(threshold as u32)?)?, shape)?;
    let scaled = mlx.mul(&step.wide(0)?, &scalar((1.0 / (1.0 - rate)) as f32)?)?;
    step.narrow(0, &mlx.select(&kept, &scaled, &scalar(0.0)?)?)
}

/// u32[rows, channels]
fn words(
    mlx: &Mlx,
    operands: [&Array; 4],
    rows: usize,
    channels: usize,
    site: usize,
) -> Result<Array, Error> {
    let [seed, time, example, position] = operands;
    let blocks = channels.div_ceil(4);
    let shape = [rows, blocks];
    let column = |x: &Array| mlx.broadcast(&mlx.reshape(x, &[rows, 1])?, &shape);
    // Of one element, but no scalar: those are written into fused kernels, and every site would be a kernel of
    // its own for MLX to compile.
    let site = mlx::from_bytes(&((site as u32) << 16).to_ne_bytes(), &[1, 1], DType::U32)?;
    let block = mlx.add(&mlx.reshape(&mlx.count(blocks, DType::U32)?, &[1, blocks])?, &site)?;
    let time = mlx.broadcast(&mlx.reshape(time, &[1, 1])?, &shape)?;
    let mut counter = [column(position)?, column(example)?, time, mlx.broadcast(&block, &shape)?];
    let key = |i: usize| mlx.reshape(&mlx.slice(seed, &[i], &[1])?, &[1, 1]);
    let mut key = [key(0)?, key(1)?];
    for round in 0..ROUNDS {
        if round > 0 {
            for (key, weyl) in key.iter_mut().zip(WEYL) {
                *key = mlx.add(key, &scalar_u32(weyl)?)?;
            }
        }
        counter = self::round(mlx, &counter, &key)?;
    }
    let column = |word: &Array| mlx.reshape(word, &[rows, blocks, 1]);
    let columns = [column(&counter[0])?, column(&counter[1])?, column(&counter[2])?, column(&counter[3])?];
    let words = mlx.concat(&columns.iter().collect::<Vec<_>>(), 2)?;
    mlx.slice(&mlx.reshape(&words, &[rows, blocks * 4])?, &[0, 0], &[rows, channels])
}

fn round(mlx: &Mlx, [c0, c1, c2, c3]: &[Array; 4], key: &[Array; 2]) -> Result<[Array; 4], Error> {
    let product = |word: &Array, multiplier: u64| -> Result<(Array, Array), Error> {
        let product = mlx.mul(&mlx.to_u64(word)?, &mlx::u64_scalar(multiplier)?)?;
        let high = mlx.shr(&product, &mlx::u64_scalar(32)?)?;
        let low = mlx.bit_and(&product, &mlx::u64_scalar(0xffff_ffff)?)?;
        Ok((mlx.cast(&high, DType::U32)?, mlx.cast(&low, DType::U32)?))
    };
    let (high0, low0) = product(c0, MULTIPLIERS[0])?;
    let (high1, low1) = product(c2, MULTIPLIERS[1])?;
    let mixed = |high: &Array, word: &Array, key: &Array| mlx.bit_xor(&mlx.bit_xor(high, word)?, key);
    Ok([mixed(&high1, c1, &key[0])?, low1, mixed(&high0, c3, &key[1])?, low0])
}

//! Rotary positions, composed: MLX's own kernel takes consecutive positions only, and heads before positions.
//!
//! Each of a pair's two results is the first times one factor plus the second times another. With the two halves as
//! a dimension of their own, that is one fused kernel. The factors are the same for all layers.

use finetune_plugin_api::export::Error;

use super::{Step, scalar};
use crate::mlx::Array;

/// What the factors depend on: positions and frequencies, as values of the program, and the attributes.
pub type Key = (usize, usize, u32, bool, bool);

pub fn run(step: &Step) -> Result<Array, Error> {
    let mlx = step.mlx;
    let [b, t, h, d] = step.types[0].shape[..] else {
        return Err(Error::invalid_program("rope takes four dimensions"));
    };
    let half = step.types[2].shape[0];
    // The dimension of a pair's two elements, and the shape of one of them.
    let (pair, split, one) = match step.attrs.get_bool("interleaved") {
        true => (4, [b, t, h, half, 2], [b, t, h, half, 1]),
        false => (3, [b, t, h, 2, half], [b, t, h, 1, half]),
    };
    let part = |from: usize, size: usize| mlx.slice(step.operands[0], &[0, 0, 0, from], &[b, t, h, size]);
    let x = if d == 2 * half { step.operands[0].clone() } else { part(0, 2 * half)? };
    let pairs = mlx.reshape(&x, &split)?;
    // Spread before it is widened, so that all that is computed has the result's shape and is one kernel.
    let side = |i: usize| {
        let mut start = [0; 5];
        start[pair] = i;
        mlx.f32(&mlx.broadcast(&mlx.slice(&pairs, &start, &one)?, &split)?)
    };
    let [first, second] = factors(step, pair, &split)?;
    let factor = |array: &Array| mlx.broadcast(array, &split);
    let y = mlx.add(&mlx.mul(&side(0)?, &factor(&first)?)?, &mlx.mul(&side(1)?, &factor(&second)?)?)?;
    let y = mlx.reshape(&step.narrow(0, &y)?, &[b, t, h, 2 * half])?;
    if d == 2 * half {
        return Ok(y);
    }
    mlx.concat(&[&y, &part(2 * half, d - 2 * half)?], 3)
}

/// What the first and the second of a pair are multiplied with for both results: f32, with dimensions for batch,
/// position, heads (1) and, in their order, pairs and their two elements.
fn factors(step: &Step, pair: usize, split: &[usize; 5]) -> Result<[Array; 2], Error> {
    let (inverse, scale) = (step.attrs.get_bool("inverse"), step.float("scale"));
    let key = (step.values[1].index(), step.values[2].index(), scale.to_bits(), inverse, pair == 4);
    if let Some(found) = step.factors.borrow().get(&key) {
        return Ok(found.clone());
    }
    let mlx = step.mlx;
    let mut frequencies = [1; 5];
    frequencies[if pair == 4 { 3 } else { 4 }] = step.types[2].shape[0];
    let positions = mlx.reshape(&mlx.f32(step.operands[1])?, &[split[0], split[1], 1, 1, 1])?;
    let angles = mlx.mul(&positions, &mlx.reshape(step.operands[2], &frequencies)?)?;
    let scaled = |x: Array| if scale == 1.0 { Ok(x) } else { mlx.mul(&x, &scalar(scale)?) };
    let (cos, sin) = (scaled(mlx.cos(&angles)?)?, scaled(mlx.sin(&angles)?)?);
    let negative = mlx.neg(&sin)?;
    let (up, down) = if inverse { (&negative, &sin) } else { (&sin, &negative) };
    let found = [mlx.concat(&[&cos, up], pair)?, mlx.concat(&[down, &cos], pair)?];
    step.factors.borrow_mut().insert(key, found.clone());
    Ok(found)
}

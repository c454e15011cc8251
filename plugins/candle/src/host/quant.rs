//! Affine groups of whole numbers.

use candle_core::{Device as Placed, Result, Tensor};
use rayon::prelude::*;

use super::{flat, floats};
use crate::ops::Step;

/// The matrix of the packed operand `first` and those behind it, in f32.
pub fn dequantized(step: &Step, first: usize) -> Result<Tensor> {
    let (bits, group) = (step.attrs.get_int("bits"), step.attrs.get_int("group"));
    let packed = flat::<u32>(step.operands[first])?;
    let (scales, biases) = (floats(step.operands[first + 1])?, floats(step.operands[first + 2])?);
    let (rows, each) = (step.types[first].shape[0], 32 / bits);
    let mask = (1 << bits) - 1;
    let number = |i: usize| {
        let word = packed[i / each] >> (i % each * bits) & mask;
        // Whole groups make a row, so groups are numbered on from row to row.
        scales[i / group] * word as f32 + biases[i / group]
    };
    let numbers: Vec<f32> = (0..packed.len() * each).into_par_iter().map(number).collect();
    Tensor::from_vec(numbers, (rows, packed.len() * each / rows), &Placed::Cpu)
}

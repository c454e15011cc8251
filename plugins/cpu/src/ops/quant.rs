//! Affine groups of 4 and 8 bit numbers.

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::{Attrs, DType};
use rayon::prelude::*;

use super::gemm::{self, Matrix, Target};
use super::{Step, parallel, row_grain};
use crate::storage::{Src, round_to};

/// A block of a quantized matrix, as an operand of a product.
#[derive(Clone)]
pub struct Quantized<'a> {
    packed: Src<'a>,
    scales: Src<'a>,
    biases: Src<'a>,
    bits: usize,
    group: usize,
    /// The type of the dequantized numbers.
    dtype: DType,
    /// First row and column, and how many, of the matrix as it is packed.
    at: [usize; 2],
    size: [usize; 2],
    transposed: bool,
}

impl<'a> Quantized<'a> {
    /// `src`: packed, scales and biases.
    fn new(src: &[Src<'a>], attrs: &Attrs, dtype: DType) -> Quantized<'a> {
        let (bits, group) = (attrs.get_int("bits"), attrs.get_int("group"));
        let size = [src[0].shape[0], src[0].shape[1] * (32 / bits)];
        let (packed, scales, biases) = (src[0].clone(), src[1].clone(), src[2].clone());
        Quantized { packed, scales, biases, bits, group, dtype, at: [0, 0], size, transposed: false }
    }

    pub fn shape(&self) -> [usize; 2] {
        turned(self.size, self.transposed)
    }

    pub fn transposed(&self) -> Quantized<'a> {
        Quantized { transposed: !self.transposed, ..self.clone() }
    }

    pub fn part(&self, at: [usize; 2], size: [usize; 2]) -> Quantized<'a> {
        let (at, size) = (turned(at, self.transposed), turned(size, self.transposed));
        Quantized { at: [self.at[0] + at[0], self.at[1] + at[1]], size, ..self.clone() }
    }

    /// Dequantizes a tile; returns the strides of its rows and columns.
    pub fn tile(&self, at: [usize; 2], size: [usize; 2], into: &mut [f32]) -> (isize, isize) {
        let (at, size) = (turned(at, self.transposed), turned(size, self.transposed));
        into.par_chunks_mut(size[1]).enumerate().for_each(|(row, into)| {
            self.row(self.at[0] + at[0] + row, self.at[1] + at[1], into);
        });
        let strides = [size[1] as isize, 1];
        if self.transposed { (strides[1], strides[0]) } else { (strides[0], strides[1]) }
    }

    /// Dequantizes elements of a row from a column on.
    fn row(&self, row: usize, first: usize, into: &mut [f32]) {
        let per_word = 32 / self.bits;
        let (words, groups) = (self.packed.shape[1], self.scales.shape[1]);
        let mask = (1u32 << self.bits) - 1;
        let mut word = (usize::MAX, 0);
        let mut affine = (usize::MAX, 0.0, 0.0);
        for (i, y) in into.iter_mut().enumerate() {
            let column = first + i;
            if column / per_word != word.0 {
                word = (column / per_word, self.packed.at_u32(row * words + column / per_word));
            }
            if column / self.group != affine.0 {
                let at = row * groups + column / self.group;
                affine = (column / self.group, self.scales.at(at), self.biases.at(at));
            }
            let number = (word.1 >> (column % per_word * self.bits)) & mask;
            *y = affine.1 * number as f32 + affine.2;
        }
        round_to(self.dtype, into);
    }
}

fn turned([a, b]: [usize; 2], transposed: bool) -> [usize; 2] {
    if transposed { [b, a] } else { [a, b] }
}

pub fn dequantize(step: &mut Step) {
    let Some(y) = step.out() else { return };
    let matrix = Quantized::new(&step.src, step.attrs, y.dtype);
    let [rows, columns] = matrix.shape();
    parallel(rows, row_grain(columns), |range| {
        let mut row = vec![0.0; columns];
        for i in range {
            matrix.row(i, 0, &mut row);
            y.store(i * columns, &row);
        }
    });
}

/// Scratch memory of `quantized_matmul`.
pub fn workspace() -> Vec<Term> {
    // A tile of dequantized numbers; eight to a word at most.
    let tile = Term {
        bytes: 4 * 8,
        dims: vec![(1, 0), (1, 1)],
        most: 4 * gemm::TILE_N * gemm::TILE_K,
        ..Term::default()
    };
    let mut terms = gemm::workspace(0, 1);
    terms[1] = tile;
    terms
}

pub fn matmul(step: &mut Step) {
    let [x, rest @ ..] = &step.src[..] else { return };
    let Some(Some(y)) = step.dst.first() else { return };
    let matrix = Matrix::Quantized(Box::new(Quantized::new(rest, step.attrs, y.dtype)));
    let matrix = if step.attrs.get_bool("transpose") { matrix.transposed() } else { matrix };
    gemm::multiply(&Target { dst: y, start: 0 }, &Matrix::Plain(x.clone()), &matrix, step.work, true);
}

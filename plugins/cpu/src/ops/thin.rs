//! Products of a few rows, as in generating text token by token: the large operand is read once, in its stored type,
//! and converted in the innermost cache.

use rayon::prelude::*;

use super::gemm::Target;
use crate::simd::{self, vectorized};
use crate::storage::Src;

/// The most rows of the left operand.
pub const ROWS: usize = 4;
/// Elements that are converted at a time, in the innermost cache.
const PIECE: usize = 2048;
/// Columns that a task sums up where the right operand lies row by row: the sums stay in the innermost cache.
const COLUMNS: usize = 512;
/// Elements of the right operand that a task is worth.
const GRAIN: usize = 64 * 1024;

/// target [M, N] = a [M, K] b [K, N] for few rows, if b is contiguous along one of its dimensions; says whether it
/// is, and else does nothing. What a task sums does not depend on the number of threads.
pub fn multiply(target: &Target, a: &Src, b: &Src, threads: bool) -> bool {
    let ([rows, depth], columns) = ([a.shape[0], a.shape[1]], b.shape[1]);
    let along_depth = b.strides[0] == 1 || depth == 1;
    if !along_depth && b.strides[1] != 1 {
        return false;
    }
    let mut left = vec![0.0; rows * depth];
    a.load(0, &mut left);
    let width = match along_depth {
        true => (GRAIN / depth).clamp(1, columns),
        false => COLUMNS.min(columns),
    };
    let task = |number: usize| {
        let first = number * width;
        let width = width.min(columns - first);
        let mut sums = vec![0.0; rows * width];
        match along_depth {
            true => dots(&left, b, first, width, &mut sums),
            false => axpys(&left, b, first, width, &mut sums),
        }
        for (row, sums) in sums.chunks(width).enumerate() {
            target.dst.store(target.start + row * columns + first, sums);
        }
    };
    let tasks = columns.div_ceil(width);
    match threads && tasks > 1 {
        true => (0..tasks).into_par_iter().for_each(task),
        false => (0..tasks).for_each(task),
    }
    true
}

/// Columns of b that are contiguous: each is read once and multiplied with every row of a.
fn dots(left: &[f32], b: &Src, first: usize, width: usize, sums: &mut [f32]) {
    let depth = b.shape[0];
    let mut piece = [0.0f32; PIECE];
    for column in 0..width {
        let x = b.view((first + column) * b.strides[1], &[depth], &[b.strides[0]]);
        for start in (0..depth).step_by(PIECE) {
            let count = PIECE.min(depth - start);
            let x = x.borrow(start, &mut piece[..count]);
            for (row, left) in left.chunks(depth).enumerate() {
                sums[row * width + column] += dot(&left[start..start + count], x);
            }
        }
    }
}

/// Rows of b that are contiguous: a part of each is added to the sums, times an element of a.
fn axpys(left: &[f32], b: &Src, first: usize, width: usize, sums: &mut [f32]) {
    let depth = b.shape[0];
    let mut piece = [0.0f32; COLUMNS];
    for k in 0..depth {
        let x = b.view(k * b.strides[0] + first, &[width], &[1]);
        let x = x.borrow(0, &mut piece[..width]);
        for (row, sums) in sums.chunks_mut(width).enumerate() {
            axpy(left[row * depth + k], x, sums);
        }
    }
}

vectorized! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let count = a.len().min(b.len());
        let (a, b) = (&a[..count], &b[..count]);
        let mut lanes = [[0.0f32; 8]; 4];
        let (mut a32, mut b32) = (a.chunks_exact(32), b.chunks_exact(32));
        for (a, b) in (&mut a32).zip(&mut b32) {
            for (part, lanes) in lanes.iter_mut().enumerate() {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = a[part * 8 + i].mul_add(b[part * 8 + i], *lane);
                }
            }
        }
        let (a, b) = (a32.remainder(), b32.remainder());
        let rest = simd::sum(a.len(), |i| a[i] * b[i]);
        let [first, second, third, fourth] = lanes;
        let upper = third.iter().zip(fourth).map(|(a, b)| a + b);
        let lower = first.iter().zip(second).map(|(a, b)| a + b);
        lower.zip(upper).map(|(a, b)| a + b).sum::<f32>() + rest
    }
}

vectorized! {
    fn axpy(factor: f32, x: &[f32], sums: &mut [f32]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = factor.mul_add(*x, *sum);
        }
    }
}

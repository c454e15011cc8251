//! Sums and maxima over dimensions. The order of additions depends on the shapes only.

use finetune_plugin_api::program::Op;
use rayon::prelude::*;

use super::{BLOCK, Step, parallel};
use crate::simd::{self, vectorized};
use crate::storage::{Dst, Src};

/// Columns that are summed together.
const COLUMNS: usize = 64;
/// Elements of a piece, if there are few sums of many elements each.
const PIECE: usize = 32 * 1024;

pub fn run(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    let axes = step.attrs.get_ints("axes");
    let is_sum = step.op == Op::ReduceSum;
    let kept: Vec<usize> = (0..x.shape.len()).filter(|d| !axes.contains(d)).collect();
    let count: usize = axes.iter().map(|&d| x.shape[d]).product();
    match kept.iter().rposition(|&d| x.shape[d] > 1) {
        // Columns: neighbours in memory go to different results.
        Some(last) if x.strides[kept[last]] == 1 && x.shape[kept[last]] >= 8 && count > 1 => {
            let order: Vec<usize> = [&kept[..last], &axes[..], &kept[last..]].concat();
            columns(&reordered(x, &order), y, count, x.shape[kept[last]], is_sum);
        }
        _ => {
            let order: Vec<usize> = [&kept[..], &axes[..]].concat();
            rows(&reordered(x, &order), y, count, is_sum);
        }
    }
}

fn reordered<'a>(x: &Src<'a>, order: &[usize]) -> Src<'a> {
    let shape: Vec<usize> = order.iter().map(|&d| x.shape[d]).collect();
    let strides: Vec<usize> = order.iter().map(|&d| x.strides[d]).collect();
    x.view(0, &shape, &strides)
}

/// Each result from `count` elements in a row.
fn rows(x: &Src, y: &Dst, count: usize, is_sum: bool) {
    let results = y.elements();
    if count <= 2 * PIECE || results >= 64 {
        let grain = (super::GRAIN / count).max(1);
        parallel(results, grain, |range| {
            for i in range {
                y.store(i, &[piece(x, i * count, count, is_sum) as f32]);
            }
        });
        return;
    }
    for i in 0..results {
        let pieces = count.div_ceil(PIECE);
        let parts: Vec<f64> = (0..pieces)
            .into_par_iter()
            .map(|p| piece(x, i * count + p * PIECE, PIECE.min(count - p * PIECE), is_sum))
            .collect();
        let whole = match is_sum {
            true => parts.iter().sum(),
            false => parts.iter().fold(f64::NEG_INFINITY, |a, &b| if a > b || a.is_nan() { a } else { b }),
        };
        y.store(i, &[whole as f32]);
    }
}

vectorized! {
    fn block_sum(values: &[f32]) -> f64 {
        simd::long_sum(values, |x| x)
    }
}

vectorized! {
    fn block_max(values: &[f32]) -> f32 {
        simd::max_of(values)
    }
}

fn piece(x: &Src, start: usize, count: usize, is_sum: bool) -> f64 {
    let mut scratch = [0.0; BLOCK];
    let mut sum = 0.0;
    let mut max = f32::NEG_INFINITY;
    for done in (0..count).step_by(BLOCK) {
        let values = x.borrow(start + done, &mut scratch[..BLOCK.min(count - done)]);
        if is_sum {
            sum += block_sum(values);
        } else {
            max = simd::max(max, block_max(values));
        }
    }
    if is_sum { sum } else { f64::from(max) }
}

/// x is [outer, count, width]; results are [outer, width].
fn columns(x: &Src, y: &Dst, count: usize, width: usize, is_sum: bool) {
    let per_row = width.div_ceil(COLUMNS);
    let tasks = y.elements() / width * per_row;
    let grain = (super::GRAIN / (count * COLUMNS.min(width))).max(1);
    parallel(tasks, grain, |range| {
        for task in range {
            let (outer, first) = (task / per_row, task % per_row * COLUMNS);
            let columns = COLUMNS.min(width - first);
            let at = |row: usize| (outer * count + row) * width + first;
            let mut out = [0.0; COLUMNS];
            match is_sum {
                true => sum_columns(x, at, count, &mut out[..columns]),
                false => max_columns(x, at, count, &mut out[..columns]),
            }
            y.store(outer * width + first, &out[..columns]);
        }
    });
}

fn sum_columns(x: &Src, at: impl Fn(usize) -> usize, count: usize, out: &mut [f32]) {
    let mut total = [0.0f64; COLUMNS];
    let mut scratch = [0.0; COLUMNS];
    for first in (0..count).step_by(32) {
        let mut part = [0.0f32; COLUMNS];
        for row in first..(first + 32).min(count) {
            let values = x.borrow(at(row), &mut scratch[..out.len()]);
            part.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
        }
        total.iter_mut().zip(&part).for_each(|(total, part)| *total += f64::from(*part));
    }
    out.iter_mut().zip(&total).for_each(|(y, total)| *y = *total as f32);
}

fn max_columns(x: &Src, at: impl Fn(usize) -> usize, count: usize, out: &mut [f32]) {
    let mut scratch = [0.0; COLUMNS];
    out.fill(f32::NEG_INFINITY);
    for row in 0..count {
        let values = x.borrow(at(row), &mut scratch[..out.len()]);
        out.iter_mut().zip(values).for_each(|(max, x)| *max = simd::max(*max, *x));
    }
}

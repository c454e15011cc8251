//! Softmax over the last dimension.

use super::{Step, parallel, row_grain, rows_and_width};
use crate::simd::{self, simd};

pub fn forward(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    let (rows, width) = rows_and_width(&y.shape);
    parallel(rows, row_grain(width), |range| {
        let mut row = vec![0.0; width];
        for i in range {
            x.load(i * width, &mut row);
            exp_and_sum(&mut row);
            y.store(i * width, &row);
        }
    });
}

/// Replaces a row by its softmax; returns the maximum and the logarithm of the sum of exponentials above it.
pub fn exp_and_sum(row: &mut [f32]) -> (f32, f64) {
    let (max, sum) = simd(|| {
        let max = simd::max_of(row);
        row.iter_mut().for_each(|x| *x = simd::exp(*x - max));
        let sum = simd::long_sum(row, |x| x);
        let sum_f32 = sum as f32;
        row.iter_mut().for_each(|x| *x /= sum_f32);
        (max, sum)
    });
    (max, sum.ln())
}

pub fn grad(step: &mut Step) {
    let (y, dy, Some(dx)) = (&step.src[0], &step.src[1], step.out()) else { return };
    let (rows, width) = rows_and_width(&dx.shape);
    parallel(rows, row_grain(width), |range| {
        let (mut row, mut drow) = (vec![0.0; width], vec![0.0; width]);
        for i in range {
            y.load(i * width, &mut row);
            dy.load(i * width, &mut drow);
            simd(|| {
                let mut dot = 0.0;
                for (y, dy) in row.chunks(512).zip(drow.chunks(512)) {
                    dot += f64::from(simd::sum(y.len(), |i| y[i] * dy[i]));
                }
                let dot = dot as f32;
                row.iter_mut().zip(&drow).for_each(|(y, dy)| *y *= dy - dot);
            });
            dx.store(i * width, &row);
        }
    });
}

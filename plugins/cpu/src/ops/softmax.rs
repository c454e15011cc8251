//! Softmax over the last dimension.

use super::{Step, parallel, row_grain, rows_and_width};
use crate::simd::{self, vectorized};

pub fn forward(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    let (rows, width) = rows_and_width(&y.shape);
    parallel(rows, row_grain(width), |range| {
        let mut row = vec![0.0; width];
        for i in range {
            x.load(i * width, &mut row);
            softmax(&mut row);
            y.store(i * width, &row);
        }
    });
}

vectorized! {
    /// Replaces a row by its softmax; returns its maximum and the sum of exponentials above it.
    pub fn softmax(row: &mut [f32]) -> (f32, f64) {
        let max = simd::max_of(row);
        row.iter_mut().for_each(|x| *x = simd::exp(*x - max));
        let sum = simd::long_sum(row, |x| x);
        let divisor = sum as f32;
        row.iter_mut().for_each(|x| *x /= divisor);
        (max, sum)
    }
}

vectorized! {
    /// y (dy - sum(y dy)), into y.
    fn grad_row(y: &mut [f32], dy: &[f32]) {
        let dot = simd::long_dot(y, dy) as f32;
        y.iter_mut().zip(dy).for_each(|(y, dy)| *y *= dy - dot);
    }
}

pub fn grad(step: &mut Step) {
    let (y, dy, Some(dx)) = (&step.src[0], &step.src[1], step.out()) else { return };
    let (rows, width) = rows_and_width(&dx.shape);
    parallel(rows, row_grain(width), |range| {
        let (mut row, mut drow) = (vec![0.0; width], vec![0.0; width]);
        for i in range {
            y.load(i * width, &mut row);
            dy.load(i * width, &mut drow);
            grad_row(&mut row, &drow);
            dx.store(i * width, &row);
        }
    });
}

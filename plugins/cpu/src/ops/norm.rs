//! RMS norm and layer norm over the last dimension, and their gradients.

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::Op;
use rayon::prelude::*;

use super::{Step, parallel, row_grain, rows_and_width};
use crate::simd::{self, vectorized};
use crate::storage::{Dst, Src};

/// Into so many parts the rows are cut to add up gradients of weights, so that the order of additions does
/// not depend on the number of threads.
const PARTS: usize = 32;

/// Scratch memory of the gradient: sums of each part, for so many weights.
pub fn workspace(weights: usize) -> Vec<Term> {
    vec![Term { bytes: 4 * PARTS * weights, dims: vec![(0, -1)], ..Term::default() }]
}

fn loaded(x: &Src) -> Vec<f32> {
    let mut values = vec![0.0; x.elements()];
    x.load(0, &mut values);
    values
}

/// Brings a row to n = (x - mean) r (mean 0 for RMS norm); returns r.
#[inline(always)]
fn normalise(row: &mut [f32], centre: bool, eps: f32) -> f32 {
    let count = row.len() as f64;
    if centre {
        let mean = (simd::long_sum(row, |x| x) / count) as f32;
        row.iter_mut().for_each(|x| *x -= mean);
    }
    let square = (simd::long_sum(row, |x| x * x) / count) as f32;
    let r = 1.0 / (square + eps).sqrt();
    row.iter_mut().for_each(|x| *x *= r);
    r
}

vectorized! {
    fn forward_row(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, centre: bool, eps: f32) {
        normalise(row, centre, eps);
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= w);
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    }
}

vectorized! {
    /// x becomes its normalised form n, dy the gradient of x; adds the row's part to dweight and dbias.
    fn grad_row(
        x: &mut [f32], dy: &mut [f32], weight: &[f32], dweight: &mut [f32], dbias: &mut [f32], centre: bool, eps: f32,
    ) {
        let width = weight.len() as f64;
        let r = normalise(x, centre, eps);
        for ((sum, dy), n) in dweight.iter_mut().zip(&*dy).zip(&*x) {
            *sum += dy * n;
        }
        dbias.iter_mut().zip(&*dy).for_each(|(sum, dy)| *sum += dy);
        // dn = dy w; dx = r (dn - n mean(dn n)), less its mean for layer norm.
        dy.iter_mut().zip(weight).for_each(|(dy, w)| *dy *= w);
        let along = (simd::long_dot(dy, x) / width) as f32;
        dy.iter_mut().zip(&*x).for_each(|(dn, n)| *dn = r * (*dn - n * along));
        if centre {
            let mean = (simd::long_sum(dy, |x| x) / width) as f32;
            dy.iter_mut().for_each(|dx| *dx -= mean);
        }
    }
}

pub fn forward(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    let (rows, width) = rows_and_width(&y.shape);
    let (centre, eps) = (step.op == Op::LayerNorm, step.attrs.get_float("eps") as f32);
    let weight = loaded(&step.src[1]);
    let bias = step.src.get(2).map(loaded);
    parallel(rows, row_grain(width), |range| {
        let mut row = vec![0.0; width];
        for i in range {
            x.load(i * width, &mut row);
            forward_row(&mut row, &weight, bias.as_deref(), centre, eps);
            y.store(i * width, &row);
        }
    });
}

pub fn grad(step: &mut Step) {
    let [x, weight, dy] = &step.src[..] else { return };
    let (rows, width) = rows_and_width(&x.shape);
    let (centre, eps) = (step.op == Op::LayerNormGrad, step.attrs.get_float("eps") as f32);
    let weight = loaded(weight);
    let dx = step.dst[0].as_ref();
    let per_part = if centre { 2 * width } else { width };
    let parts = rows.min(PARTS);
    let rows_per_part = rows.div_ceil(parts);
    let sums = &mut step.work[..parts * per_part];
    let task = Task { x, dy, dx, weight: &weight, centre, eps };
    sums.par_chunks_mut(per_part).enumerate().for_each(|(part, sums)| {
        sums.fill(0.0);
        let (dweight, dbias) = sums.split_at_mut(width);
        for row in part * rows_per_part..((part + 1) * rows_per_part).min(rows) {
            task.row(row, dweight, dbias);
        }
    });
    for (number, result) in step.dst[1..].iter().enumerate() {
        let Some(result) = result else { continue };
        let mut total = vec![0.0f64; width];
        for part in sums.chunks(per_part) {
            let part = &part[number * width..(number + 1) * width];
            total.iter_mut().zip(part).for_each(|(total, x)| *total += f64::from(*x));
        }
        let total: Vec<f32> = total.iter().map(|x| *x as f32).collect();
        result.store(0, &total);
    }
}

struct Task<'a> {
    x: &'a Src<'a>,
    dy: &'a Src<'a>,
    dx: Option<&'a Dst<'a>>,
    weight: &'a [f32],
    centre: bool,
    eps: f32,
}

impl Task<'_> {
    /// One row of dx, and what it adds to the gradients of the weights. dx may lie where x or dy lies.
    fn row(&self, row: usize, dweight: &mut [f32], dbias: &mut [f32]) {
        let width = self.weight.len();
        let (mut n, mut dy) = (vec![0.0; width], vec![0.0; width]);
        self.x.load(row * width, &mut n);
        self.dy.load(row * width, &mut dy);
        grad_row(&mut n, &mut dy, self.weight, dweight, dbias, self.centre, self.eps);
        if let Some(dx) = self.dx {
            dx.store(row * width, &dy);
        }
    }
}

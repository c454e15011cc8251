//! Cross entropy, and cross entropy of a linear layer in chunks of rows, so that the logits are never whole.

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::DType;
use rayon::prelude::*;

use super::Step;
use super::gemm::{self, Matrix, Target};
use super::softmax::softmax;
use crate::simd::vectorized;
use crate::storage::Src;

/// The most logits that are held at a time.
const LOGITS: usize = 8 << 20;

/// Scratch memory of `linear_cross_entropy`.
pub fn workspace() -> Vec<Term> {
    let logits = Term { bytes: 4, dims: vec![(0, 0), (1, 0)], most: 4 * LOGITS, ..Term::default() };
    let one_row = Term { bytes: 4, dims: vec![(1, 0)], ..Term::default() };
    // A gradient of the weight that is not f32 is summed in f32 first.
    let dweight =
        Term { bytes: 4, dims: vec![(1, 0), (1, 1)], half: Some(1), result: Some(2), ..Term::default() };
    [vec![logits, one_row, dweight], gemm::workspace(0, 1)].concat()
}

vectorized! {
    fn scale(row: &mut [f32], factor: f32) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Replaces the logits of a row by the gradient of its loss; returns the loss.
fn row_loss(row: &mut [f32], target: usize, weight: f32) -> f64 {
    let target = target.min(row.len() - 1);
    let chosen = row[target];
    let (max, sum) = softmax(row);
    row[target] -= 1.0;
    scale(row, weight);
    f64::from(weight) * (sum.ln() - f64::from(chosen - max))
}

pub fn cross_entropy(step: &mut Step) {
    let [logits, targets, weights] = &step.src[..] else { return };
    let (rows, classes) = (logits.shape[0], logits.shape[1]);
    let dlogits = step.dst[1].as_ref();
    let losses: Vec<f64> = (0..rows)
        .into_par_iter()
        .map_init(
            || vec![0.0; classes],
            |row, i| {
                logits.load(i * classes, row);
                let loss = row_loss(row, targets.at_u32(i) as usize, weights.at(i));
                dlogits.iter().for_each(|dlogits| dlogits.store(i * classes, row));
                loss
            },
        )
        .collect();
    if let Some(loss) = &step.dst[0] {
        loss.store(0, &[losses.iter().sum::<f64>() as f32]);
    }
}

/// Rows `first..first + count` of a matrix.
fn rows_of<'a>(x: &Src<'a>, first: usize, count: usize) -> Matrix<'a> {
    Matrix::Plain(x.view(first * x.strides[0], &[count, x.shape[1]], &x.strides))
}

pub fn linear_cross_entropy(step: &mut Step) {
    let [x, weight, targets, weights] = &step.src[..] else { return };
    let [loss, dx, dweight] = &step.dst[..] else { return };
    let (rows, channels, classes) = (x.shape[0], x.shape[1], weight.shape[0]);
    // Equal chunks, as few as the scratch memory for logits allows.
    let most = ((LOGITS.min(rows * classes) + classes) / classes).min(rows);
    let chunk = rows.div_ceil(rows.div_ceil(most));
    let (logits, work) = step.work.split_at_mut(chunk * classes);
    // The sum over chunks of dweight: in the result itself if it is f32.
    let wide = dweight.as_ref().filter(|dweight| dweight.dtype != DType::F32);
    let (sum, work) = work.split_at_mut(if wide.is_some() { classes * channels } else { 0 });
    let mut sum = match dweight {
        Some(dweight) if wide.is_none() => Some(dweight.lend_f32(0, classes * channels)),
        Some(_) => Some(sum),
        None => None,
    };
    let weight = Matrix::Plain(weight.clone());
    let mut total = 0.0;
    for first in (0..rows).step_by(chunk) {
        let count = chunk.min(rows - first);
        let x = rows_of(x, first, count);
        let logits = &mut logits[..count * classes];
        gemm::accumulate(logits, classes, &x, &weight.transposed(), false, work, true);
        let losses: Vec<f64> = logits
            .par_chunks_mut(classes)
            .enumerate()
            .map(|(i, row)| row_loss(row, targets.at_u32(first + i) as usize, weights.at(first + i)))
            .collect();
        total += losses.iter().sum::<f64>();
        let dlogits = Matrix::Plain(Src::of_f32(logits, &[count, classes], &[classes, 1]));
        if let Some(dx) = dx {
            gemm::multiply(&Target { dst: dx, start: first * channels }, &dlogits, &weight, work, true);
        }
        if let Some(sum) = &mut sum {
            gemm::accumulate(sum, channels, &dlogits.transposed(), &x, first > 0, work, true);
        }
    }
    if let Some(loss) = loss {
        loss.store(0, &[total as f32]);
    }
    if let (Some(wide), Some(sum)) = (wide, sum) {
        super::parallel(sum.len(), super::GRAIN, |range| wide.store(range.start, &sum[range.clone()]));
    }
}

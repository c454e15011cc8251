//! RMS norm and layer norm.

use super::call::Call;
use super::tensor::Values;

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// A row divided by its root mean square, and the reciprocal of that.
fn normalize(row: &[f64], eps: f64) -> (Vec<f64>, f64) {
    let r = 1.0 / (mean(row.iter().map(|x| x * x)) + eps).sqrt();
    (row.iter().map(|x| x * r).collect(), r)
}

fn centre(row: &[f64]) -> Vec<f64> {
    let mean = mean(row.iter().copied());
    row.iter().map(|x| x - mean).collect()
}

pub(super) fn rms_norm(call: &Call<'_>) -> Vec<Values> {
    let (weight, eps) = (call.floats(1), call.attrs.get_float("eps"));
    let rows = call.floats(0).chunks_exact(weight.len());
    let y = rows.flat_map(|row| normalize(row, eps).0.into_iter().zip(weight).map(|(n, w)| n * w));
    vec![Values::Float(y.collect())]
}

pub(super) fn layer_norm(call: &Call<'_>) -> Vec<Values> {
    let (weight, bias, eps) = (call.floats(1), call.floats(2), call.attrs.get_float("eps"));
    let rows = call.floats(0).chunks_exact(weight.len());
    let y = rows.flat_map(|row| {
        let normed = normalize(&centre(row), eps).0;
        normed.into_iter().zip(weight).zip(bias).map(|((n, w), b)| n * w + b)
    });
    vec![Values::Float(y.collect())]
}

pub(super) fn rms_norm_grad(call: &Call<'_>) -> Vec<Values> {
    let (weight, eps) = (call.floats(1), call.attrs.get_float("eps"));
    let count = weight.len();
    let (mut dx, mut dweight) = (Vec::new(), vec![0.0; count]);
    for (row, dy) in call.floats(0).chunks_exact(count).zip(call.floats(2).chunks_exact(count)) {
        let (n, r) = normalize(row, eps);
        let dn: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| dy * w).collect();
        let along = mean(n.iter().zip(&dn).map(|(n, dn)| n * dn));
        dx.extend(n.iter().zip(&dn).map(|(n, dn)| r * (dn - n * along)));
        dweight.iter_mut().zip(dy.iter().zip(&n)).for_each(|(sum, (dy, n))| *sum += dy * n);
    }
    vec![Values::Float(dx), Values::Float(dweight)]
}

pub(super) fn layer_norm_grad(call: &Call<'_>) -> Vec<Values> {
    let (weight, eps) = (call.floats(1), call.attrs.get_float("eps"));
    let count = weight.len();
    let (mut dx, mut dweight, mut dbias) = (Vec::new(), vec![0.0; count], vec![0.0; count]);
    for (row, dy) in call.floats(0).chunks_exact(count).zip(call.floats(2).chunks_exact(count)) {
        let (n, r) = normalize(&centre(row), eps);
        let dn: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| dy * w).collect();
        let along = mean(n.iter().zip(&dn).map(|(n, dn)| n * dn));
        let level = mean(dn.iter().copied());
        dx.extend(n.iter().zip(&dn).map(|(n, dn)| r * (dn - level - n * along)));
        dweight.iter_mut().zip(dy.iter().zip(&n)).for_each(|(sum, (dy, n))| *sum += dy * n);
        dbias.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    vec![Values::Float(dx), Values::Float(dweight), Values::Float(dbias)]
}

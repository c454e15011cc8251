//! Attention and its gradient, one query at a time: a row of scores is all that is held.

use std::ops::Range;

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::AttentionShape;
use rayon::prelude::*;

use super::{flat, floats, result, softmax::softmax, sum};
use crate::ops::Step;

/// The operands and which keys a query sees.
struct Attention {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    shape: AttentionShape,
    start: Vec<u32>,
    valid: Vec<u32>,
    segments: Option<Vec<u32>>,
    scale: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // In eight sums, which the compiler makes one instruction of.
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = sum(a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b));
    for (a, b) in a8.zip(b8) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sum(sums.into_iter()) + rest
}

fn add_scaled(to: &mut [f32], factor: f32, x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

/// The row of elements of [.., rows, width].
fn row(x: &[f32], number: usize, width: usize) -> &[f32] {
    &x[number * width..(number + 1) * width]
}

impl Attention {
    fn new(step: &Step) -> Result<Attention> {
        let shape = step.attention();
        Ok(Attention {
            q: floats(step.operands[0])?,
            k: floats(step.operands[1])?,
            v: floats(step.operands[2])?,
            shape,
            start: flat(step.operands[3])?,
            valid: flat(step.operands[4])?,
            segments: if shape.segments { Some(flat(step.operands[5])?) } else { None },
            scale: shape.scale as f32,
        })
    }

    /// The probabilities of the keys that are seen, and the logarithm of the sum of e^score.
    fn probabilities(&self, batch: usize, query: usize, head: usize) -> (Range<usize>, Vec<f32>, f32) {
        let place = AttentionShape::place(self.start[batch], query);
        let seen = self.shape.seen(place, self.valid[batch]);
        let q =
            row(&self.q, (batch * self.shape.queries + query) * self.shape.heads + head, self.shape.channels);
        let own = self.segments.as_ref().map(|segments| {
            let row = &segments[batch * self.shape.keys..(batch + 1) * self.shape.keys];
            (row, row[place.min(self.shape.keys - 1)])
        });
        let score = |key: usize| match own {
            Some((row, segment)) if row[key] != segment => f32::NEG_INFINITY,
            _ => self.scale * dot(q, row(&self.k, self.key(batch, key, head), self.shape.channels)),
        };
        let mut scores: Vec<f32> = seen.clone().map(score).collect();
        if scores.iter().all(|&score| score == f32::NEG_INFINITY) {
            scores.fill(0.0);
            return (seen, scores, f32::NEG_INFINITY);
        }
        let (most, total) = softmax(&mut scores);
        (seen, scores, most + total.ln())
    }

    /// The row of k and v that a query head reads for a key.
    fn key(&self, batch: usize, key: usize, head: usize) -> usize {
        (batch * self.shape.keys + key) * self.shape.groups + head / self.shape.heads_per_group()
    }
}

pub fn forward(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let a = Attention::new(step)?;
    let mut out = vec![0.0; a.shape.batch * a.shape.queries * a.shape.heads * a.shape.value_channels];
    let each = out.par_chunks_mut(a.shape.value_channels).enumerate().map(|(number, out)| {
        let (batch, query, head) = (
            number / a.shape.heads / a.shape.queries,
            number / a.shape.heads % a.shape.queries,
            number % a.shape.heads,
        );
        let (seen, p, lse) = a.probabilities(batch, query, head);
        for (key, p) in seen.zip(p) {
            add_scaled(out, p, row(&a.v, a.key(batch, key, head), a.shape.value_channels));
        }
        lse
    });
    let by_query: Vec<f32> = each.collect();
    let mut results = vec![Some(result(step, 0, out)?)];
    if step.attrs.get_bool("lse") {
        // [B, T, H] to [B, H, T].
        let place = |i: usize| {
            let (batch, head, query) = (
                i / a.shape.queries / a.shape.heads,
                i / a.shape.queries % a.shape.heads,
                i % a.shape.queries,
            );
            by_query[(batch * a.shape.queries + query) * a.shape.heads + head]
        };
        results.push(Some(result(step, 1, (0..by_query.len()).map(place).collect())?));
    }
    Ok(results)
}

/// dq, dk and dv of one key head of one row of the batch: those of the queries that read it.
struct Part {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Attention {
    /// With the forward op's `out`, in its rounding, the mean of the products dout v^T is dout out.
    fn part(&self, dout: &[f32], out: Option<&[f32]>, batch: usize, group: usize) -> Part {
        let each = self.shape.heads_per_group();
        let mut part = Part {
            dq: vec![0.0; self.shape.queries * each * self.shape.channels],
            dk: vec![0.0; self.shape.keys * self.shape.channels],
            dv: vec![0.0; self.shape.keys * self.shape.value_channels],
        };
        for (number, dq) in part.dq.chunks_mut(self.shape.channels).enumerate() {
            let (query, head) = (number / each, group * each + number % each);
            let at = (batch * self.shape.queries + query) * self.shape.heads + head;
            let (q, dout) = (row(&self.q, at, self.shape.channels), row(dout, at, self.shape.value_channels));
            let out = out.map(|out| row(out, at, self.shape.value_channels));
            let (seen, p, _) = self.probabilities(batch, query, head);
            let dp = |key| dot(dout, row(&self.v, self.key(batch, key, head), self.shape.value_channels));
            let dp: Vec<f32> = seen.clone().map(dp).collect();
            let delta = match out {
                Some(out) => dot(dout, out),
                None => sum(p.iter().zip(&dp).map(|(p, dp)| p * dp)),
            };
            for ((key, p), dp) in seen.zip(p).zip(dp) {
                let ds = p * (dp - delta) * self.scale;
                add_scaled(dq, ds, row(&self.k, self.key(batch, key, head), self.shape.channels));
                add_scaled(&mut part.dk[key * self.shape.channels..][..self.shape.channels], ds, q);
                add_scaled(
                    &mut part.dv[key * self.shape.value_channels..][..self.shape.value_channels],
                    p,
                    dout,
                );
            }
        }
        part
    }
}

pub fn grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let a = Attention::new(step)?;
    let first = a.shape.dout();
    let dout = floats(step.operands[first])?;
    let out = if step.attrs.get_bool("lse") { Some(floats(step.operands[first + 1])?) } else { None };
    let tasks = (0..a.shape.batch * a.shape.groups).into_par_iter();
    let parts: Vec<Part> = tasks
        .map(|task| a.part(&dout, out.as_deref(), task / a.shape.groups, task % a.shape.groups))
        .collect();
    // A part's rows have its heads side by side; the results have all heads so.
    let joined = |of: fn(&Part) -> &Vec<f32>, rows: usize, width: usize| {
        let mut all = vec![0.0; a.shape.batch * rows * a.shape.groups * width];
        for (task, part) in parts.iter().enumerate() {
            let (batch, group) = (task / a.shape.groups, task % a.shape.groups);
            for (number, values) in of(part).chunks(width).enumerate() {
                all[((batch * rows + number) * a.shape.groups + group) * width..][..width]
                    .copy_from_slice(values);
            }
        }
        all
    };
    let dq = joined(|part| &part.dq, a.shape.queries, a.shape.heads_per_group() * a.shape.channels);
    let dk = joined(|part| &part.dk, a.shape.keys, a.shape.channels);
    let dv = joined(|part| &part.dv, a.shape.keys, a.shape.value_channels);
    Ok(vec![Some(result(step, 0, dq)?), Some(result(step, 1, dk)?), Some(result(step, 2, dv)?)])
}

//! The gradients of attention, in blocks. A task has all query heads of one key head, so that dk and dv are
//! summed by one thread, in one order.

use std::ops::Range;

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::AttentionShape;

use super::Step;
use super::attention::{KEYS, QUERIES, Rows, Visible, cut, load_rows, with_scratch};
use super::gemm::small;
use crate::simd::{self, vectorized};
use crate::storage::{Dst, Src};

/// Scratch memory for so many threads.
pub fn workspace(threads: usize) -> Vec<Term> {
    let of = |elements: usize, dims: &[(usize, isize)]| Term {
        bytes: 4 * threads * elements,
        dims: dims.to_vec(),
        ..Term::default()
    };
    vec![
        of(2 * QUERIES * KEYS + 2 * QUERIES, &[]),
        of(2 * QUERIES + KEYS, &[(0, -1)]),
        of(QUERIES + KEYS, &[(2, -1)]),
        of(1, &[(1, 1), (1, -1)]),
        of(1, &[(2, 1), (2, -1)]),
    ]
}

pub fn run(step: &mut Step) {
    let work = std::mem::take(&mut step.work);
    let rows = Rows::new(step);
    let shape = rows.shape;
    let rest = &step.src[shape.dout()..];
    let forward = step.attrs.get_bool("lse").then(|| (&rest[1], &rest[2]));
    let AttentionShape { channels, value_channels, keys, .. } = shape;
    let each = 2 * QUERIES * KEYS
        + 2 * QUERIES
        + (2 * QUERIES + KEYS) * channels
        + (QUERIES + KEYS) * value_channels
        + keys * (channels + value_channels);
    with_scratch(work, each, shape.batch * shape.groups, |scratch, task| {
        let (batch, group) = (task / shape.groups, task % shape.groups);
        let visible = rows.row(batch);
        let src = [&step.src[0], &step.src[1], &step.src[2], &rest[0]];
        Task { rows: &rows, src, forward, dst: &step.dst, batch, group, visible: &visible }.run(scratch);
    });
}

struct Task<'a> {
    rows: &'a Rows<'a>,
    /// q, k, v, dout.
    src: [&'a Src<'a>; 4],
    /// out and lse of the forward op.
    forward: Option<(&'a Src<'a>, &'a Src<'a>)>,
    /// dq, dk, dv.
    dst: &'a [Option<Dst<'a>>],
    batch: usize,
    group: usize,
    visible: &'a Visible<'a>,
}

/// Scratch memory by use.
struct Scratch<'a> {
    p: &'a mut [f32],
    dp: &'a mut [f32],
    lse: &'a mut [f32],
    delta: &'a mut [f32],
    q: &'a mut [f32],
    dq: &'a mut [f32],
    k: &'a mut [f32],
    dout: &'a mut [f32],
    v: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl Task<'_> {
    fn run(&self, scratch: &mut [f32]) {
        let AttentionShape { channels, value_channels, keys, heads, groups, queries, .. } = self.rows.shape;
        let block = QUERIES * KEYS;
        let sizes = [
            block,
            block,
            QUERIES,
            QUERIES,
            QUERIES * channels,
            QUERIES * channels,
            KEYS * channels,
            QUERIES * value_channels,
            KEYS * value_channels,
            keys * channels,
            keys * value_channels,
        ];
        let [p, dp, lse, delta, q, dq, k, dout, v, dk, dv] = cut(scratch, sizes);
        let mut s = Scratch { p, dp, lse, delta, q, dq, k, dout, v, dk, dv };
        s.dk.fill(0.0);
        s.dv.fill(0.0);
        let each = heads / groups;
        for head in self.group * each..(self.group + 1) * each {
            for first in (0..queries).step_by(QUERIES) {
                self.queries(&mut s, head, first..(first + QUERIES).min(queries));
            }
        }
        let store = |dst: &Option<Dst>, values: &[f32], channels: usize| {
            let Some(dst) = dst else { return };
            for (key, row) in values.chunks(channels).enumerate() {
                dst.store(((self.batch * keys + key) * groups + self.group) * channels, row);
            }
        };
        store(&self.dst[1], s.dk, channels);
        store(&self.dst[2], s.dv, value_channels);
    }

    /// What a block of queries of one head adds.
    fn queries(&self, s: &mut Scratch, head: usize, queries: Range<usize>) {
        let AttentionShape { channels, heads, .. } = self.rows.shape;
        load_rows(self.src[0], self.batch, queries.clone(), head, s.q);
        load_rows(self.src[3], self.batch, queries.clone(), head, s.dout);
        let seen = self.visible.of_queries(queries.clone());
        let blocks = || seen.clone().step_by(KEYS).map(|first| first..(first + KEYS).min(seen.end));
        match self.forward {
            Some((out, lse)) => self.known_statistics(s, out, lse, head, queries.clone()),
            None => self.statistics(s, queries.clone(), blocks()),
        }
        s.dq.fill(0.0);
        for keys in blocks() {
            self.block(s, queries.clone(), keys);
        }
        if let Some(dq) = &self.dst[0] {
            for (row, query) in s.dq.chunks(channels).zip(queries) {
                dq.store(((self.batch * self.rows.shape.queries + query) * heads + head) * channels, row);
            }
        }
    }

    /// lse and delta = sum(dout out) from what the forward op gave.
    fn known_statistics(&self, s: &mut Scratch, out: &Src, lse: &Src, head: usize, queries: Range<usize>) {
        let AttentionShape { value_channels: width, heads, .. } = self.rows.shape;
        let at = (self.batch * heads + head) * self.rows.shape.queries + queries.start;
        lse.load(at, &mut s.lse[..queries.len()]);
        let mut row = vec![0.0; width];
        for (i, query) in queries.enumerate() {
            load_rows(out, self.batch, query..query + 1, head, &mut row);
            let dout = &s.dout[i * width..(i + 1) * width];
            s.delta[i] = dot(&row, dout);
        }
    }

    /// lse and delta = sum(p dp) by an online pass over the keys.
    fn statistics(&self, s: &mut Scratch, queries: Range<usize>, blocks: impl Iterator<Item = Range<usize>>) {
        let mut sums = vec![0.0f32; queries.len()];
        s.lse.fill(f32::NEG_INFINITY);
        s.delta.fill(0.0);
        for keys in blocks {
            self.scores(s, queries.clone(), keys.clone());
            let rows = s.p.chunks_mut(keys.len()).zip(s.dp.chunks(keys.len()));
            for (i, (p, dp)) in rows.take(queries.len()).enumerate() {
                online(p, dp, &mut s.lse[i], &mut sums[i], &mut s.delta[i]);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            if *sum > 0.0 {
                s.delta[i] /= sum;
                s.lse[i] += sum.ln();
            }
        }
    }

    /// Loads a block of keys and values; p becomes the scores, hidden ones at minus infinity, dp dout v^T.
    fn scores(&self, s: &mut Scratch, queries: Range<usize>, keys: Range<usize>) {
        let AttentionShape { channels, value_channels, .. } = self.rows.shape;
        let scale = self.rows.scale;
        let (rows, columns) = (queries.len(), keys.len());
        load_rows(self.src[1], self.batch, keys.clone(), self.group, s.k);
        load_rows(self.src[2], self.batch, keys.clone(), self.group, s.v);
        let p = &mut s.p[..rows * columns];
        small((p, columns), [rows, columns, channels], (s.q, channels, 1), (s.k, 1, channels), scale, false);
        self.visible.hide(p, queries, keys);
        let dp = &mut s.dp[..rows * columns];
        let size = [rows, columns, value_channels];
        small((dp, columns), size, (s.dout, value_channels, 1), (s.v, 1, value_channels), 1.0, false);
    }

    /// Adds a block's part to dq, dk and dv.
    fn block(&self, s: &mut Scratch, queries: Range<usize>, keys: Range<usize>) {
        let AttentionShape { channels, value_channels, .. } = self.rows.shape;
        let scale = self.rows.scale;
        let (rows, columns) = (queries.len(), keys.len());
        self.scores(s, queries, keys.clone());
        for i in 0..rows {
            let p = &mut s.p[i * columns..(i + 1) * columns];
            let dp = &mut s.dp[i * columns..(i + 1) * columns];
            let (lse, delta) = (s.lse[i], s.delta[i]);
            // A query that sees no key has no lse, and all its scores are hidden.
            let lse = if lse == f32::NEG_INFINITY { 0.0 } else { lse };
            probabilities(p, dp, lse, delta, scale);
        }
        let (p, ds) = (&s.p[..rows * columns], &s.dp[..rows * columns]);
        let dq = (&mut s.dq[..rows * channels], channels);
        small(dq, [rows, channels, columns], (ds, columns, 1), (s.k, channels, 1), 1.0, true);
        let dk = (&mut s.dk[keys.start * channels..keys.end * channels], channels);
        small(dk, [columns, channels, rows], (ds, 1, columns), (s.q, channels, 1), 1.0, true);
        let dv = (&mut s.dv[keys.start * value_channels..keys.end * value_channels], value_channels);
        small(dv, [columns, value_channels, rows], (p, 1, columns), (s.dout, value_channels, 1), 1.0, true);
    }
}

vectorized! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        simd::long_dot(a, b) as f32
    }
}

vectorized! {
    /// One block of the pass that finds the sum of exponentials and that of their products with dp.
    fn online(p: &mut [f32], dp: &[f32], max: &mut f32, sum: &mut f32, delta: &mut f32) {
        let new = simd::max(simd::max_of(p), *max);
        if new == f32::NEG_INFINITY {
            return;
        }
        let factor = simd::exp(*max - new);
        p.iter_mut().for_each(|x| *x = simd::exp(*x - new));
        *sum = *sum * factor + simd::sum(p.len(), |j| p[j]);
        *delta = *delta * factor + simd::sum(p.len().min(dp.len()), |j| p[j] * dp[j]);
        *max = new;
    }
}

vectorized! {
    /// Scores become probabilities, dp the gradient of the scores.
    fn probabilities(p: &mut [f32], dp: &mut [f32], lse: f32, delta: f32, scale: f32) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = simd::exp(*p - lse);
            *dp = *p * (*dp - delta) * scale;
        }
    }
}

//! Attention in blocks of queries and keys with an online softmax: the scores are never whole.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::AttentionShape;
use rayon::prelude::*;

use super::Step;
use super::gemm::small;
use crate::simd::{self, vectorized};
use crate::storage::{Dst, Src};

/// Queries and keys of a block.
pub const QUERIES: usize = 64;
pub const KEYS: usize = 128;

/// Scratch memory of the forward op for so many threads.
pub fn workspace(threads: usize) -> Vec<Term> {
    let of = |elements: usize, dims: &[(usize, isize)]| Term {
        bytes: 4 * threads * elements,
        dims: dims.to_vec(),
        ..Term::default()
    };
    vec![
        of(QUERIES * KEYS + 2 * QUERIES, &[]),
        of(QUERIES + KEYS, &[(0, -1)]),
        of(QUERIES + KEYS, &[(2, -1)]),
    ]
}

/// The shape of the op with what its operands say of the rows.
pub struct Rows<'a> {
    pub shape: AttentionShape,
    pub scale: f32,
    start: &'a Src<'a>,
    valid: &'a Src<'a>,
    segments: Option<&'a Src<'a>>,
}

impl<'a> Rows<'a> {
    pub fn new(step: &'a Step) -> Rows<'a> {
        let [q, k, v, start, valid, ..] = &step.src[..] else { unreachable!("five operands at least") };
        let shape = AttentionShape::new(&q.shape, &k.shape, &v.shape, step.attrs);
        let segments = shape.segments.then(|| &step.src[5]);
        Rows { shape, scale: shape.scale as f32, start, valid, segments }
    }

    pub fn row(&self, batch: usize) -> Visible<'_> {
        let mut segments = vec![0; if self.segments.is_some() { self.shape.keys } else { 0 }];
        if let Some(all) = self.segments {
            all.load_u32(batch * self.shape.keys, &mut segments);
        }
        let (start, valid) = (self.start.at_u32(batch), self.valid.at_u32(batch));
        Visible { shape: &self.shape, start, valid, segments }
    }
}

/// Which keys the queries of one row of the batch see.
pub struct Visible<'a> {
    shape: &'a AttentionShape,
    start: u32,
    valid: u32,
    segments: Vec<u32>,
}

impl Visible<'_> {
    /// The keys that a query may see, segments aside.
    pub fn of_query(&self, query: usize) -> Range<usize> {
        self.shape.seen(AttentionShape::place(self.start, query), self.valid)
    }

    /// The keys between the first and the last that any of these queries may see.
    pub fn of_queries(&self, queries: Range<usize>) -> Range<usize> {
        let seen = queries.map(|query| self.of_query(query));
        seen.reduce(|all, seen| all.start.min(seen.start)..all.end.max(seen.end)).unwrap_or(0..0)
    }

    /// Sets the scores of keys that are not seen to minus infinity: rows are `queries`, columns `keys`.
    pub fn hide(&self, scores: &mut [f32], queries: Range<usize>, keys: Range<usize>) {
        for (row, query) in scores.chunks_mut(keys.len()).zip(queries) {
            let seen = self.of_query(query);
            let from = seen.start.clamp(keys.start, keys.end) - keys.start;
            let to = seen.end.clamp(keys.start + from, keys.end.max(keys.start + from)) - keys.start;
            row[..from].fill(f32::NEG_INFINITY);
            row[to..].fill(f32::NEG_INFINITY);
            if !self.segments.is_empty() {
                let own = self.segments[AttentionShape::place(self.start, query).min(self.shape.keys - 1)];
                for (score, key) in row.iter_mut().zip(keys.clone()) {
                    if self.segments[key] != own {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Loads rows `rows` of head `head` of x [B, S, H, C] as f32 [rows, C].
pub fn load_rows(x: &Src, batch: usize, rows: Range<usize>, head: usize, into: &mut [f32]) {
    let channels = x.shape[3];
    let start = batch * x.strides[0] + rows.start * x.strides[1] + head * x.strides[2];
    let view = x.view(start, &[rows.len(), channels], &[x.strides[1], x.strides[3]]);
    view.load(0, &mut into[..rows.len() * channels]);
}

/// Gives each thread a part of the scratch memory and lets them take tasks in turn. A task's result does not
/// depend on who takes it.
pub fn with_scratch(work: &mut [f32], each: usize, tasks: usize, f: impl Fn(&mut [f32], usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = rayon::current_num_threads().min(tasks).min(work.len() / each).max(1);
    work[..threads * each].par_chunks_mut(each).with_max_len(1).for_each(|scratch| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            f(scratch, task);
        }
    });
}

/// Cuts pieces off a scratch memory.
pub fn cut<const N: usize>(mut scratch: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (piece, rest) = std::mem::take(&mut scratch).split_at_mut(size);
        scratch = rest;
        piece
    })
}

pub fn run(step: &mut Step) {
    let work = std::mem::take(&mut step.work);
    let rows = Rows::new(step);
    let shape = rows.shape;
    let (out, lse) = (step.dst[0].as_ref(), step.dst.get(1).and_then(Option::as_ref));
    let blocks = shape.queries.div_ceil(QUERIES);
    let each = QUERIES * KEYS + 2 * QUERIES + (QUERIES + KEYS) * (shape.channels + shape.value_channels);
    with_scratch(work, each, shape.batch * shape.heads * blocks, |scratch, task| {
        // The last blocks see the most keys, so they come first.
        let block = blocks - 1 - task / (shape.batch * shape.heads);
        let (batch, head) = (task / shape.heads % shape.batch, task % shape.heads);
        let queries = block * QUERIES..((block + 1) * QUERIES).min(shape.queries);
        let task = Task { rows: &rows, src: &step.src, batch, head, queries };
        task.run(scratch, out, lse);
    });
}

struct Task<'a> {
    rows: &'a Rows<'a>,
    src: &'a [Src<'a>],
    batch: usize,
    head: usize,
    queries: Range<usize>,
}

impl Task<'_> {
    fn run(&self, scratch: &mut [f32], out: Option<&Dst>, lse: Option<&Dst>) {
        let AttentionShape { channels, value_channels, heads, .. } = self.rows.shape;
        let count = self.queries.len();
        let [scores, max, sum, q, k, v, acc] = cut(
            scratch,
            [
                QUERIES * KEYS,
                QUERIES,
                QUERIES,
                QUERIES * channels,
                KEYS * channels,
                KEYS * value_channels,
                QUERIES * value_channels,
            ],
        );
        let group = self.head / self.rows.shape.heads_per_group();
        let visible = self.rows.row(self.batch);
        load_rows(&self.src[0], self.batch, self.queries.clone(), self.head, q);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        acc.fill(0.0);
        let seen = visible.of_queries(self.queries.clone());
        for first in seen.clone().step_by(KEYS) {
            let keys = first..(first + KEYS).min(seen.end);
            load_rows(&self.src[1], self.batch, keys.clone(), group, k);
            load_rows(&self.src[2], self.batch, keys.clone(), group, v);
            let scores = &mut scores[..count * keys.len()];
            let size = [count, keys.len(), channels];
            small((scores, keys.len()), size, (q, channels, 1), (k, 1, channels), self.rows.scale, false);
            visible.hide(scores, self.queries.clone(), keys.clone());
            for (i, row) in scores.chunks_mut(keys.len()).enumerate() {
                let acc = &mut acc[i * value_channels..(i + 1) * value_channels];
                online(row, &mut max[i], &mut sum[i], acc);
            }
            let size = [count, value_channels, keys.len()];
            small((acc, value_channels), size, (scores, keys.len(), 1), (v, value_channels, 1), 1.0, true);
        }
        for (i, query) in self.queries.clone().enumerate() {
            let acc = &mut acc[i * value_channels..(i + 1) * value_channels];
            if sum[i] > 0.0 {
                acc.iter_mut().for_each(|x| *x /= sum[i]);
            }
            if let Some(out) = out {
                out.store(
                    ((self.batch * self.rows.shape.queries + query) * heads + self.head) * value_channels,
                    acc,
                );
            }
            if let Some(lse) = lse {
                let value = if sum[i] > 0.0 { max[i] + sum[i].ln() } else { f32::NEG_INFINITY };
                lse.store((self.batch * heads + self.head) * self.rows.shape.queries + query, &[value]);
            }
        }
    }
}

vectorized! {
    /// Turns a row of scores into exponentials above the new maximum and scales what was summed before.
    fn online(row: &mut [f32], max: &mut f32, sum: &mut f32, acc: &mut [f32]) {
        let new = simd::max(simd::max_of(row), *max);
        if new == f32::NEG_INFINITY {
            return row.fill(0.0);
        }
        let factor = simd::exp(*max - new);
        row.iter_mut().for_each(|x| *x = simd::exp(*x - new));
        *sum = *sum * factor + simd::sum(row.len(), |i| row[i]);
        acc.iter_mut().for_each(|x| *x *= factor);
        *max = new;
    }
}

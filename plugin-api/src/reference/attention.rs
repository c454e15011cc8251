//! Attention and its gradients, query by query.

use super::call::Call;
use super::tensor::Values;
use crate::program::AttentionShape;

/// The operands of attention, with access to rows of channels.
struct Attention<'a> {
    call: &'a Call<'a>,
    shape: AttentionShape,
}

/// One query: batch row, position in it, head.
#[derive(Clone, Copy)]
struct Query {
    b: usize,
    t: usize,
    h: usize,
}

impl<'a> Attention<'a> {
    fn new(call: &'a Call<'a>) -> Attention<'a> {
        let shape = AttentionShape::new(call.shape(0), call.shape(1), call.shape(2), call.attrs);
        Attention { call, shape }
    }

    fn all_queries(&self) -> impl Iterator<Item = Query> + use<> {
        let AttentionShape { batch, queries, heads, .. } = self.shape;
        (0..batch)
            .flat_map(move |b| (0..queries).flat_map(move |t| (0..heads).map(move |h| Query { b, t, h })))
    }

    /// Where the channels of a query begin in a tensor [B, T, H, `length`].
    fn of_query(&self, at: Query, length: usize) -> usize {
        ((at.b * self.shape.queries + at.t) * self.shape.heads + at.h) * length
    }

    /// Where the channels of key j that a query reads begin in a tensor [B, S, G, `length`].
    fn of_key(&self, at: Query, j: usize, length: usize) -> usize {
        let group = at.h / self.shape.heads_per_group();
        ((at.b * self.shape.keys + j) * self.shape.groups + group) * length
    }

    fn query(&self, operand: usize, at: Query, length: usize) -> &'a [f64] {
        let start = self.of_query(at, length);
        &self.call.floats(operand)[start..start + length]
    }

    fn key(&self, operand: usize, at: Query, j: usize, length: usize) -> &'a [f64] {
        let start = self.of_key(at, j, length);
        &self.call.floats(operand)[start..start + length]
    }

    fn sees(&self, at: Query, j: usize) -> bool {
        let attrs = self.call.attrs;
        let window = attrs.get_int("window") as u64;
        // Positions are u32 and wrap as its arithmetic does.
        let place = u64::from(self.call.u32s(3)[at.b].wrapping_add(at.t as u32));
        let key = j as u64;
        let same_segment = || {
            let row = &self.call.u32s(5)[at.b * self.shape.keys..][..self.shape.keys];
            row[j] == row[(place as usize).min(self.shape.keys - 1)]
        };
        key < u64::from(self.call.u32s(4)[at.b])
            && (!attrs.get_bool("causal") || key <= place)
            && (window == 0 || key + window > place)
            && (!attrs.get_bool("segments") || same_segment())
    }

    /// The keys that a query sees, with their scores.
    fn scores(&self, at: Query) -> Vec<(usize, f64)> {
        let q = self.query(0, at, self.shape.channels);
        let seen = (0..self.shape.keys).filter(|&j| self.sees(at, j));
        seen.map(|j| (j, self.shape.scale * dot(q, self.key(1, at, j, self.shape.channels)))).collect()
    }

    fn lse_position(&self, at: Query) -> usize {
        (at.b * self.shape.heads + at.h) * self.shape.queries + at.t
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f64], factor: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

/// The logarithm of the sum of exp(score); -inf if there is none.
fn log_sum_exp(scores: &[(usize, f64)]) -> f64 {
    let max = scores.iter().map(|&(_, score)| score).fold(f64::NEG_INFINITY, f64::max);
    match scores {
        [] => max,
        _ => max + scores.iter().map(|&(_, score)| (score - max).exp()).sum::<f64>().ln(),
    }
}

pub(super) fn attention(call: &Call<'_>) -> Vec<Values> {
    let attention = Attention::new(call);
    let mut out = vec![0.0; call.results[0].elements()];
    let mut all_lse = vec![0.0; call.results[0].elements() / attention.shape.value_channels];
    for at in attention.all_queries() {
        let scores = attention.scores(at);
        let lse = log_sum_exp(&scores);
        let length = attention.shape.value_channels;
        let row = &mut out[attention.of_query(at, length)..][..length];
        for &(j, score) in &scores {
            add_scaled(row, (score - lse).exp(), attention.key(2, at, j, length));
        }
        all_lse[attention.lse_position(at)] = lse;
    }
    let lse = call.attrs.get_bool("lse").then_some(Values::Float(all_lse));
    [Some(Values::Float(out)), lse].into_iter().flatten().collect()
}

pub(super) fn attention_grad(call: &Call<'_>) -> Vec<Values> {
    let attention = Attention::new(call);
    let dout_operand = attention.shape.dout();
    let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| vec![0.0; call.results[i].elements()]);
    let (channels, value_channels) = (attention.shape.channels, attention.shape.value_channels);
    for at in attention.all_queries() {
        let scores = attention.scores(at);
        let dout = attention.query(dout_operand, at, value_channels);
        let lse = match call.attrs.get_bool("lse") {
            true => call.floats(dout_operand + 2)[attention.lse_position(at)],
            false => log_sum_exp(&scores),
        };
        let weights: Vec<(usize, f64, f64)> = scores
            .iter()
            .map(|&(j, score)| (j, (score - lse).exp(), dot(dout, attention.key(2, at, j, value_channels))))
            .collect();
        // What all weights of a query lose together because they sum to 1.
        let shared = match call.attrs.get_bool("lse") {
            true => dot(dout, attention.query(dout_operand + 1, at, value_channels)),
            false => weights.iter().map(|(_, p, dp)| p * dp).sum(),
        };
        let q = attention.query(0, at, channels);
        for (j, p, dp) in weights {
            let dscore = attention.shape.scale * p * (dp - shared);
            let k = attention.key(1, at, j, channels);
            add_scaled(&mut dq[attention.of_query(at, channels)..][..channels], dscore, k);
            add_scaled(&mut dk[attention.of_key(at, j, channels)..][..channels], dscore, q);
            add_scaled(&mut dv[attention.of_key(at, j, value_channels)..][..value_channels], p, dout);
        }
    }
    vec![Values::Float(dq), Values::Float(dk), Values::Float(dv)]
}

//! Attention: causal, grouped heads, sliding window, packed segments, run-time positions.
//!
//! The decompositions bring q to [B, G, R T, D], R = H/G query heads for each key head, so that grouped heads
//! are rows of one product and the sums over them in dk and dv come by themselves.

use super::{dims, expect, float};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};

/// Takes the place of a hidden score: finite, so that no row ever becomes inf - inf.
const HIDDEN: f64 = -1e30;

/// The longest window and the most keys.
const LONGEST: usize = 1 << 30;

/// Sizes of one attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    heads: usize,
    channels: usize,
    keys: usize,
    groups: usize,
    value_channels: usize,
}

fn sizes(q: &TensorType, k: &TensorType, v: &TensorType) -> Result<Sizes, String> {
    float(q, "q")?;
    let [batch, queries, heads, channels] = *dims::<4>(q, "q")?;
    let [_, keys, groups, _] = *dims::<4>(k, "k")?;
    let [.., value_channels] = *dims::<4>(v, "v")?;
    expect(k, q.dtype, &[batch, keys, groups, channels], "k")?;
    expect(v, q.dtype, &[batch, keys, groups, value_channels], "v")?;
    if heads % groups != 0 {
        return Err(format!("{heads} query heads are no multiple of {groups} key heads"));
    }
    Ok(Sizes { batch, queries, heads, channels, keys, groups, value_channels })
}

fn inputs(types: &[TensorType], attrs: &Attrs) -> Result<Sizes, String> {
    let sizes = sizes(&types[0], &types[1], &types[2])?;
    expect(&types[3], DType::U32, &[sizes.batch], "start")?;
    expect(&types[4], DType::U32, &[sizes.batch], "valid")?;
    if attrs.get_bool("segments") {
        expect(&types[5], DType::U32, &[sizes.batch, sizes.keys], "segments")?;
    }
    // Positions are u32 and their sums must not wrap.
    let (window, keys) = (attrs.get_int("window"), sizes.keys);
    if window > LONGEST || keys > LONGEST || sizes.batch.saturating_mul(keys) > u32::MAX as usize {
        return Err(format!("window {window}, {keys} keys: expected at most {LONGEST} of each"));
    }
    Ok(sizes)
}

impl Sizes {
    fn out(&self, dtype: DType) -> TensorType {
        TensorType::new(dtype, &[self.batch, self.queries, self.heads, self.value_channels])
    }

    fn lse(&self) -> TensorType {
        TensorType::new(DType::F32, &[self.batch, self.heads, self.queries])
    }
}

pub(crate) fn infer_attention(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let sizes = inputs(types, attrs)?;
    let mut results = vec![sizes.out(types[0].dtype)];
    if attrs.get_bool("lse") {
        results.push(sizes.lse());
    }
    Ok(results)
}

pub(crate) fn infer_attention_grad(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let sizes = inputs(types, attrs)?;
    let dtype = types[0].dtype;
    let rest = if attrs.get_bool("segments") { &types[6..] } else { &types[5..] };
    expect(&rest[0], dtype, &sizes.out(dtype).shape, "dout")?;
    if attrs.get_bool("lse") {
        expect(&rest[1], dtype, &sizes.out(dtype).shape, "out")?;
        expect(&rest[2], DType::F32, &sizes.lse().shape, "lse")?;
    }
    Ok(types[..3].to_vec())
}

fn builder_sizes(b: &Builder, operands: &[ValueId]) -> Sizes {
    let empty = Sizes { batch: 1, queries: 1, heads: 1, channels: 1, keys: 1, groups: 1, value_channels: 1 };
    sizes(b.ty(operands[0]), b.ty(operands[1]), b.ty(operands[2])).unwrap_or(empty)
}

/// [B, T, H, C] to f32 [B, G, R T, C].
fn grouped(b: &mut Builder, x: ValueId, sizes: Sizes, channels: usize) -> ValueId {
    let x = b.cast(x, DType::F32);
    let x = b.permute(x, &[0, 2, 1, 3]);
    b.reshape(x, &[sizes.batch, sizes.groups, sizes.heads / sizes.groups * sizes.queries, channels])
}

/// The inverse of [`grouped`], in another element type.
fn ungrouped(b: &mut Builder, x: ValueId, sizes: Sizes, channels: usize, dtype: DType) -> ValueId {
    let x = b.reshape(x, &[sizes.batch, sizes.heads, sizes.queries, channels]);
    let x = b.permute(x, &[0, 2, 1, 3]);
    b.cast(x, dtype)
}

/// bool [B, G, R T, S]: whether a query sees a key.
fn visible(b: &mut Builder, operands: &[ValueId], attrs: &Attrs, sizes: Sizes) -> ValueId {
    let grid = [sizes.batch, sizes.queries, sizes.keys];
    let grid_type = TensorType::new(DType::U32, &grid);
    let key = b.iota(DType::U32, &grid, 2);
    let per_row = |b: &mut Builder, value: ValueId| {
        let value = b.reshape(value, &[sizes.batch, 1, 1]);
        b.broadcast(value, &grid)
    };
    let valid = per_row(b, operands[4]);
    let mut seen = b.compare("lt", key, valid);
    let start = per_row(b, operands[3]);
    let query = b.iota(DType::U32, &grid, 1);
    let place = b.add(start, query);
    if attrs.get_bool("causal") {
        let not_after = b.compare("le", key, place);
        seen = b.apply(Op::And, &[seen, not_after], Attrs::none());
    }
    if attrs.get_int("window") != 0 {
        let window = b.full(attrs.get_int("window") as f64, &grid_type);
        let reach = b.add(key, window);
        let near = b.compare("gt", reach, place);
        seen = b.apply(Op::And, &[seen, near], Attrs::none());
    }
    if attrs.get_bool("segments") {
        let same = same_segment(b, operands[5], place, sizes);
        seen = b.apply(Op::And, &[seen, same], Attrs::none());
    }
    let repeat = sizes.heads / sizes.groups;
    let seen = b.reshape(seen, &[sizes.batch, 1, 1, sizes.queries, sizes.keys]);
    let seen = b.broadcast(seen, &[sizes.batch, sizes.groups, repeat, sizes.queries, sizes.keys]);
    b.reshape(seen, &[sizes.batch, sizes.groups, repeat * sizes.queries, sizes.keys])
}

/// bool [B, T, S]: whether the query at `place` and the key belong to one segment.
fn same_segment(b: &mut Builder, segments: ValueId, place: ValueId, sizes: Sizes) -> ValueId {
    let Sizes { batch, queries, keys, .. } = sizes;
    let grid = [batch, queries, keys];
    let flat = b.reshape(segments, &[batch * keys]);
    let rows = TensorType::new(DType::U32, &[batch, queries]);
    let place = b.slice(place, &[0; 3], &[batch, queries, 1]);
    let place = b.reshape(place, &rows.shape);
    let last = b.full((keys - 1) as f64, &rows);
    let place = b.apply(Op::Min, &[place, last], Attrs::none());
    let row = b.iota(DType::U32, &rows.shape, 0);
    let stride = b.full(keys as f64, &rows);
    let offset = b.mul(row, stride);
    let index = b.add(offset, place);
    let of_query = b.apply(Op::Gather, &[flat, index], Attrs::none());
    let of_query = b.reshape(of_query, &[batch, queries, 1]);
    let of_query = b.broadcast(of_query, &grid);
    let of_key = b.reshape(segments, &[batch, 1, keys]);
    let of_key = b.broadcast(of_key, &grid);
    b.compare("eq", of_query, of_key)
}

/// Scaled scores [B, G, R T, S], hidden ones at [`HIDDEN`], and what is visible.
fn scores(b: &mut Builder, operands: &[ValueId], attrs: &Attrs, sizes: Sizes) -> (ValueId, ValueId) {
    let q = grouped(b, operands[0], sizes, sizes.channels);
    let k = keys_first(b, operands[1]);
    let products = b.matmul(q, k, false, true);
    let scaled = b.scale(products, attrs.get_float("scale"));
    let seen = visible(b, operands, attrs, sizes);
    let hidden = b.full_like(HIDDEN, scaled);
    (b.select(seen, scaled, hidden), seen)
}

/// [B, S, G, C] to f32 [B, G, S, C].
fn keys_first(b: &mut Builder, x: ValueId) -> ValueId {
    let x = b.cast(x, DType::F32);
    b.permute(x, &[0, 2, 1, 3])
}

/// exp(score - shift) where visible, 0 elsewhere.
fn weights(b: &mut Builder, scores: ValueId, shift: ValueId, seen: ValueId) -> ValueId {
    let shifted = b.sub_broadcast(scores, shift);
    let exp = b.exp(shifted);
    let zero = b.full_like(0.0, exp);
    b.select(seen, exp, zero)
}

/// The probabilities [B, G, R T, S] and the logarithm of the sum of exponentials [B, G, R T, 1].
fn probabilities(b: &mut Builder, scores: ValueId, seen: ValueId) -> (ValueId, ValueId) {
    let max = b.reduce_max(scores, &[3]);
    let weights = weights(b, scores, max, seen);
    let sum = b.reduce_sum(weights, &[3]);
    // At least exp(0) = 1 where a key is visible; 1 keeps the other rows from 0/0.
    let one = b.full_like(1.0, sum);
    let divisor = b.apply(Op::Max, &[sum, one], Attrs::none());
    let log = b.log(sum);
    let lse = b.add(max, log);
    (b.div_broadcast(weights, divisor), lse)
}

pub(crate) fn decompose_attention(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let sizes = builder_sizes(b, operands);
    let dtype = b.dtype(operands[0]);
    let (scores, seen) = scores(b, operands, attrs, sizes);
    let (probabilities, lse) = probabilities(b, scores, seen);
    let v = keys_first(b, operands[2]);
    let out = b.matmul(probabilities, v, false, false);
    let mut results = vec![ungrouped(b, out, sizes, sizes.value_channels, dtype)];
    if attrs.get_bool("lse") {
        results.push(b.reshape(lse, &sizes.lse().shape));
    }
    results
}

pub(crate) fn decompose_attention_grad(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let sizes = builder_sizes(b, operands);
    let dtype = b.dtype(operands[0]);
    let rest = &operands[if attrs.get_bool("segments") { 6 } else { 5 }..];
    let (scores, seen) = scores(b, operands, attrs, sizes);
    let dout = grouped(b, rest[0], sizes, sizes.value_channels);
    let v = keys_first(b, operands[2]);
    let dp = b.matmul(dout, v, false, true);
    let (p, delta) = match attrs.get_bool("lse") {
        true => {
            let rows = sizes.heads / sizes.groups * sizes.queries;
            let lse = b.reshape(rest[2], &[sizes.batch, sizes.groups, rows, 1]);
            let p = weights(b, scores, lse, seen);
            let out = grouped(b, rest[1], sizes, sizes.value_channels);
            let product = b.mul(dout, out);
            (p, b.reduce_sum(product, &[3]))
        }
        false => {
            let (p, _) = probabilities(b, scores, seen);
            let product = b.mul(p, dp);
            (p, b.reduce_sum(product, &[3]))
        }
    };
    let centred = b.sub_broadcast(dp, delta);
    let ds = b.mul(p, centred);
    let ds = b.scale(ds, attrs.get_float("scale"));
    let q = grouped(b, operands[0], sizes, sizes.channels);
    let k = keys_first(b, operands[1]);
    let dq = b.matmul(ds, k, false, false);
    let dk = b.matmul(ds, q, true, false);
    let dv = b.matmul(p, dout, true, false);
    let dq = ungrouped(b, dq, sizes, sizes.channels, dtype);
    let [dk, dv] = [dk, dv].map(|x| {
        let x = b.permute(x, &[0, 2, 1, 3]);
        b.cast(x, dtype)
    });
    vec![dq, dk, dv]
}

//! Attention: causal, grouped heads, sliding window, packed segments, run-time positions.
//!
//! The decompositions bring q to [B, G, R T, D], R = H/G query heads for each key head, so that grouped heads
//! are rows of one product and the sums over them in dk and dv come by themselves.

use super::{dims, expect, float};
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};
use crate::program::{AttentionShape, ValueId};

/// Takes the place of a hidden score: finite, so that no row ever becomes inf - inf.
const HIDDEN: f64 = -1e30;

/// The longest window and the most keys.
const LONGEST: usize = 1 << 30;

/// The shape of q, k and v that fit each other.
fn shape(q: &TensorType, k: &TensorType, v: &TensorType, attrs: &Attrs) -> Result<AttentionShape, String> {
    float(q, "q")?;
    for (ty, name) in [(q, "q"), (k, "k"), (v, "v")] {
        dims::<4>(ty, name)?;
    }
    let shape = AttentionShape::new(&q.shape, &k.shape, &v.shape, attrs);
    let AttentionShape { batch, heads, channels, keys, groups, value_channels, .. } = shape;
    expect(k, q.dtype, &[batch, keys, groups, channels], "k")?;
    expect(v, q.dtype, &[batch, keys, groups, value_channels], "v")?;
    if heads % groups != 0 {
        return Err(format!("{heads} query heads are no multiple of {groups} key heads"));
    }
    Ok(shape)
}

fn inputs(types: &[TensorType], attrs: &Attrs) -> Result<AttentionShape, String> {
    let shape = shape(&types[0], &types[1], &types[2], attrs)?;
    let AttentionShape { batch, keys, window, segments, .. } = shape;
    expect(&types[3], DType::U32, &[batch], "start")?;
    expect(&types[4], DType::U32, &[batch], "valid")?;
    if segments {
        expect(&types[5], DType::U32, &[batch, keys], "segments")?;
    }
    // Positions are u32 and their sums must not wrap.
    if window > LONGEST || keys > LONGEST || batch.saturating_mul(keys) > u32::MAX as usize {
        return Err(format!("window {window}, {keys} keys: expected at most {LONGEST} of each"));
    }
    Ok(shape)
}

pub(crate) fn infer_attention(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let shape = inputs(types, attrs)?;
    let mut results = vec![shape.out(types[0].dtype)];
    if attrs.get_bool("lse") {
        results.push(shape.lse());
    }
    Ok(results)
}

pub(crate) fn infer_attention_grad(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let shape = inputs(types, attrs)?;
    let dtype = types[0].dtype;
    let rest = &types[shape.dout()..];
    expect(&rest[0], dtype, &shape.out(dtype).shape, "dout")?;
    if attrs.get_bool("lse") {
        expect(&rest[1], dtype, &shape.out(dtype).shape, "out")?;
        expect(&rest[2], DType::F32, &shape.lse().shape, "lse")?;
    }
    Ok(types[..3].to_vec())
}

fn builder_shape(b: &Builder, operands: &[ValueId], attrs: &Attrs) -> AttentionShape {
    let empty = || AttentionShape::new(&[1; 4], &[1; 4], &[1; 4], attrs);
    shape(b.ty(operands[0]), b.ty(operands[1]), b.ty(operands[2]), attrs).unwrap_or_else(|_| empty())
}

/// [B, T, H, C] to f32 [B, G, R T, C].
fn grouped(b: &mut Builder, x: ValueId, shape: AttentionShape, channels: usize) -> ValueId {
    let x = b.cast(x, DType::F32);
    let x = b.permute(x, &[0, 2, 1, 3]);
    b.reshape(x, &[shape.batch, shape.groups, shape.heads_per_group() * shape.queries, channels])
}

/// The inverse of [`grouped`], in another element type.
fn ungrouped(b: &mut Builder, x: ValueId, shape: AttentionShape, channels: usize, dtype: DType) -> ValueId {
    let x = b.reshape(x, &[shape.batch, shape.heads, shape.queries, channels]);
    let x = b.permute(x, &[0, 2, 1, 3]);
    b.cast(x, dtype)
}

/// bool [B, G, R T, S]: whether a query sees a key.
fn visible(b: &mut Builder, operands: &[ValueId], shape: AttentionShape) -> ValueId {
    let grid = [shape.batch, shape.queries, shape.keys];
    let grid_type = TensorType::new(DType::U32, &grid);
    let key = b.iota(DType::U32, &grid, 2);
    let per_row = |b: &mut Builder, value: ValueId| {
        let value = b.reshape(value, &[shape.batch, 1, 1]);
        b.broadcast(value, &grid)
    };
    let valid = per_row(b, operands[4]);
    let mut seen = b.compare("lt", key, valid);
    let start = per_row(b, operands[3]);
    let query = b.iota(DType::U32, &grid, 1);
    let place = b.add(start, query);
    if shape.causal {
        let not_after = b.compare("le", key, place);
        seen = b.apply(Op::And, &[seen, not_after], Attrs::none());
    }
    if shape.window != 0 {
        let window = b.full(shape.window as f64, &grid_type);
        let reach = b.add(key, window);
        let near = b.compare("gt", reach, place);
        seen = b.apply(Op::And, &[seen, near], Attrs::none());
    }
    if shape.segments {
        let same = same_segment(b, operands[5], place, shape);
        seen = b.apply(Op::And, &[seen, same], Attrs::none());
    }
    let repeat = shape.heads_per_group();
    let seen = b.reshape(seen, &[shape.batch, 1, 1, shape.queries, shape.keys]);
    let seen = b.broadcast(seen, &[shape.batch, shape.groups, repeat, shape.queries, shape.keys]);
    b.reshape(seen, &[shape.batch, shape.groups, repeat * shape.queries, shape.keys])
}

/// bool [B, T, S]: whether the query at `place` and the key belong to one segment.
fn same_segment(b: &mut Builder, segments: ValueId, place: ValueId, shape: AttentionShape) -> ValueId {
    let AttentionShape { batch, queries, keys, .. } = shape;
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
fn scores(b: &mut Builder, operands: &[ValueId], shape: AttentionShape) -> (ValueId, ValueId) {
    let q = grouped(b, operands[0], shape, shape.channels);
    let k = keys_first(b, operands[1]);
    let products = b.matmul(q, k, false, true);
    let scaled = b.scale(products, shape.scale);
    let seen = visible(b, operands, shape);
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
    let shape = builder_shape(b, operands, attrs);
    let dtype = b.dtype(operands[0]);
    let (scores, seen) = scores(b, operands, shape);
    let (probabilities, lse) = probabilities(b, scores, seen);
    let v = keys_first(b, operands[2]);
    let out = b.matmul(probabilities, v, false, false);
    let mut results = vec![ungrouped(b, out, shape, shape.value_channels, dtype)];
    if attrs.get_bool("lse") {
        results.push(b.reshape(lse, &shape.lse().shape));
    }
    results
}

pub(crate) fn decompose_attention_grad(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let shape = builder_shape(b, operands, attrs);
    let dtype = b.dtype(operands[0]);
    let rest = &operands[shape.dout()..];
    let (scores, seen) = scores(b, operands, shape);
    let dout = grouped(b, rest[0], shape, shape.value_channels);
    let v = keys_first(b, operands[2]);
    let dp = b.matmul(dout, v, false, true);
    let (p, delta) = match attrs.get_bool("lse") {
        true => {
            let rows = shape.heads_per_group() * shape.queries;
            let lse = b.reshape(rest[2], &[shape.batch, shape.groups, rows, 1]);
            let p = weights(b, scores, lse, seen);
            let out = grouped(b, rest[1], shape, shape.value_channels);
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
    let ds = b.scale(ds, shape.scale);
    let q = grouped(b, operands[0], shape, shape.channels);
    let k = keys_first(b, operands[1]);
    let dq = b.matmul(ds, k, false, false);
    let dk = b.matmul(ds, q, true, false);
    let dv = b.matmul(p, dout, true, false);
    let dq = ungrouped(b, dq, shape, shape.channels, dtype);
    let [dk, dv] = [dk, dv].map(|x| {
        let x = b.permute(x, &[0, 2, 1, 3]);
        b.cast(x, dtype)
    });
    vec![dq, dk, dv]
}

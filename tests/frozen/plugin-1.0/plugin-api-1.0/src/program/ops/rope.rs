//! Rotary position embedding.

use super::{dims, expect, float};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::types::{DType, TensorType};

pub(crate) fn infer_rope(types: &[TensorType], _: &Attrs) -> Result<Vec<TensorType>, String> {
    let (x, inv_freq) = (&types[0], &types[2]);
    float(x, "x")?;
    let [batch, length, _, channels] = *dims::<4>(x, "x")?;
    expect(&types[1], DType::U32, &[batch, length], "positions")?;
    let [half] = *dims::<1>(inv_freq, "inv_freq")?;
    expect(inv_freq, DType::F32, &[half], "inv_freq")?;
    if half > channels / 2 {
        return Err(format!("inv_freq turns {half} pairs; x has {} in each head", channels / 2));
    }
    Ok(vec![x.clone()])
}

pub(crate) fn decompose_rope(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let dtype = b.dtype(operands[0]);
    let [batch, length, heads, channels] = b.dims::<4>(operands[0]);
    let [half] = b.dims::<1>(operands[2]);
    let x = b.cast(operands[0], DType::F32);
    let (cos, sin) = cos_sin(b, operands, attrs);
    let turned = [batch, length, heads, 2 * half];
    let pairs = b.slice(x, &[0; 4], &turned);
    // The pairs are the last or the last but one dimension, according to how they lie in a head.
    let (pair_shape, axis) = match attrs.get_bool("interleaved") {
        false => ([batch, length, heads, 2, half], 3),
        true => ([batch, length, heads, half, 2], 4),
    };
    let pairs = b.reshape(pairs, &pair_shape);
    let (first, second) = (take(b, pairs, axis, 0), take(b, pairs, axis, 1));
    let flat = [batch, length, heads, half];
    let (first, second) = (b.reshape(first, &flat), b.reshape(second, &flat));
    let (fc, ss) = (b.mul_broadcast(first, cos), b.mul_broadcast(second, sin));
    let (sc, fs) = (b.mul_broadcast(second, cos), b.mul_broadcast(first, sin));
    let (new_first, new_second) = (b.sub(fc, ss), b.add(sc, fs));
    let mut single = pair_shape;
    single[axis] = 1;
    let (new_first, new_second) = (b.reshape(new_first, &single), b.reshape(new_second, &single));
    let joined = b.concat(&[new_first, new_second], axis);
    let mut y = b.reshape(joined, &turned);
    if 2 * half < channels {
        let rest = [batch, length, heads, channels - 2 * half];
        let rest = b.slice(x, &[0, 0, 0, 2 * half], &rest);
        y = b.concat(&[y, rest], 3);
    }
    vec![b.cast(y, dtype)]
}

fn take(b: &mut Builder, pairs: ValueId, axis: usize, which: usize) -> ValueId {
    let mut size = b.shape(pairs);
    let mut start = vec![0; size.len()];
    if let (Some(size), Some(start)) = (size.get_mut(axis), start.get_mut(axis)) {
        (*size, *start) = (1, which);
    }
    b.slice(pairs, &start, &size)
}

/// Cosine and sine of every angle, [B, T, 1, R/2], times the scale.
fn cos_sin(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> (ValueId, ValueId) {
    let [batch, length] = b.dims::<2>(operands[1]);
    let [half] = b.dims::<1>(operands[2]);
    let positions = b.cast(operands[1], DType::F32);
    let positions = b.reshape(positions, &[batch, length, 1, 1]);
    let positions = b.broadcast(positions, &[batch, length, 1, half]);
    let angles = b.mul_broadcast(positions, operands[2]);
    let (cos, sin) = (b.cos(angles), b.sin(angles));
    let scale = attrs.get_float("scale");
    let sign = if attrs.get_bool("inverse") { -scale } else { scale };
    (b.scale(cos, scale), b.scale(sin, sign))
}

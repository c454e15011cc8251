//! Counter-based random numbers and dropout.

use super::{expect, float, last_dim};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};

const MAX_CHANNELS: usize = 1 << 18;
const MAX_SITES: usize = 1 << 16;

fn counters(types: &[TensorType]) -> Result<(), String> {
    expect(&types[0], DType::U32, &[2], "seed")?;
    expect(&types[1], DType::U32, &[], "step")?;
    expect(&types[2], DType::U32, &types[2].shape, "example")?;
    expect(&types[3], DType::U32, &types[2].shape, "position")
}

fn limits(channels: usize, site: usize) -> Result<(), String> {
    if channels == 0 || channels > MAX_CHANNELS || site >= MAX_SITES {
        return Err(format!(
            "channels {channels} and site {site}: expected 1 to {MAX_CHANNELS} channels, a site below {MAX_SITES}"
        ));
    }
    Ok(())
}

pub(crate) fn infer_random_bits(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    counters(types)?;
    let channels = attrs.get_int("channels");
    limits(channels, attrs.get_int("site"))?;
    Ok(vec![types[2].with_shape(&[&types[2].shape[..], &[channels]].concat())])
}

pub(crate) fn infer_dropout(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let x = &types[0];
    float(x, "x")?;
    counters(&types[1..])?;
    let channels = last_dim(x, "x")?;
    limits(channels, attrs.get_int("site"))?;
    expect(&types[3], DType::U32, &x.shape[..x.rank() - 1], "example")?;
    let rate = attrs.get_float("rate");
    if !(0.0..1.0).contains(&rate) {
        return Err(format!("rate is {rate}; expected at least 0 and less than 1"));
    }
    Ok(vec![x.clone()])
}

/// The smallest bits that keep an element at this rate.
pub fn dropout_threshold(rate: f64) -> u32 {
    (rate * 4_294_967_296.0).round().min(f64::from(u32::MAX)) as u32
}

pub(crate) fn decompose_dropout(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let (x, rate) = (operands[0], attrs.get_float("rate"));
    let ty = b.ty(x).clone();
    let channels = ty.shape.last().copied().unwrap_or(1);
    let bits_attrs = Attrs::none().int("channels", channels).int("site", attrs.get_int("site"));
    let bits = b.apply(Op::RandomBits, &operands[1..5], bits_attrs);
    let threshold = b.full(f64::from(dropout_threshold(rate)), &ty.with_dtype(DType::U32));
    let keep = b.compare("ge", bits, threshold);
    // In f32: 1/(1 - rate) rounded to a shorter type would be another factor.
    let wide = b.cast(x, DType::F32);
    let scaled = b.scale(wide, 1.0 / (1.0 - rate));
    let zero = b.full_like(0.0, scaled);
    let kept = b.select(keep, scaled, zero);
    vec![b.cast(kept, ty.dtype)]
}

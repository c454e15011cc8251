//! Attention by MLX's fused kernel, and its gradient by MLX's own.
//!
//! Where a run is known to have rows that begin at 0 and are full, and nothing but order limits what is seen, the
//! kernel's own causal mode is used, which needs no mask. Else a mask is built from `start`, `valid`, the window
//! and the segments; a query that sees no key gives zeros and takes no gradient.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::{AttentionShape, DType};

use super::{Results, Step, scalar, scalar_u32};
use crate::mlx::{Array, Closure, Mlx};

/// Scores and what is made of them, as many at a time as the gradient has where MLX has no fused kernel for it:
/// on a Mac, on the processor, and where rows are short.
pub fn workspace(bytes: usize) -> Vec<Term> {
    vec![Term { bytes, dims: vec![(0, 0), (0, 2), (0, 1), (1, 1)], ..Term::default() }]
}

fn shape(step: &Step) -> AttentionShape {
    let [q, k, v] = [0, 1, 2].map(|operand| &step.types[operand].shape[..]);
    AttentionShape::new(q, k, v, step.attrs)
}

/// bool [B, 1, T, S]: what each query sees; nothing if that is all up to itself.
fn mask(step: &Step, shape: &AttentionShape) -> Result<Option<Array>, Error> {
    let plain = shape.causal && !shape.segments && (shape.window == 0 || shape.window >= shape.keys);
    if step.full && plain && shape.queries == shape.keys {
        return Ok(None);
    }
    seen(step, shape).map(Some)
}

fn seen(step: &Step, shape: &AttentionShape) -> Result<Array, Error> {
    let mlx = step.mlx;
    let &AttentionShape { batch: b, queries: t, keys: s, causal, window, segments: segmented, .. } = shape;
    let per_row = |i: usize| mlx.reshape(step.operands[i], &[b, 1, 1, 1]);
    let key = mlx.reshape(&mlx.count(s, DType::U32)?, &[1, 1, 1, s])?;
    let query = mlx.reshape(&mlx.count(t, DType::U32)?, &[1, 1, t, 1])?;
    let at = mlx.add(&query, &per_row(3)?)?;
    let mut seen = mlx.lt(&key, &per_row(4)?)?;
    if causal {
        seen = mlx.and(&seen, &mlx.le(&key, &at)?)?;
    }
    if window != 0 {
        // With a start near 2^32 nothing may wrap: j + window > p is j > p - window.
        let window = scalar_u32(u32::try_from(window).unwrap_or(u32::MAX))?;
        let within = mlx.gt(&mlx.to_u64(&mlx.add(&key, &window)?)?, &mlx.to_u64(&at)?)?;
        seen = mlx.and(&seen, &within)?;
    }
    if segmented {
        let segments = step.operands[5];
        let own = mlx.minimum(&mlx.reshape(&at, &[b, t])?, &scalar_u32(s as u32 - 1)?)?;
        let own = mlx.reshape(&mlx.take_along(segments, &own)?, &[b, 1, t, 1])?;
        seen = mlx.and(&seen, &mlx.eq(&mlx.reshape(segments, &[b, 1, 1, s])?, &own)?)?;
    }
    mlx.broadcast(&seen, &[b, 1, t, s])
}

/// Which queries see a key, as 1 or 0, f32 [B, 1, T, 1].
fn seeing(mlx: &Mlx, mask: &Array) -> Result<Array, Error> {
    mlx.max(&mlx.f32(mask)?, &[3])
}

fn heads_first(step: &Step, i: usize) -> Result<Array, Error> {
    let array = if step.mlx.gpu { step.operands[i].clone() } else { step.wide(i)? };
    step.mlx.permute(&array, &[0, 2, 1, 3])
}

/// Zeros for queries that see nothing; what is there must not be kept by a product, it may be NaN.
fn where_seeing(mlx: &Mlx, x: &Array, mask: Option<&Array>, dtype: DType) -> Result<Array, Error> {
    let Some(mask) = mask else { return Ok(x.clone()) };
    let sees = mlx.gt(&seeing(mlx, mask)?, &scalar(0.0)?)?;
    mlx.select(&sees, x, &mlx.cast(&scalar(0.0)?, dtype)?)
}

pub fn forward(step: &Step) -> Result<Array, Error> {
    let mask = mask(step, &shape(step))?;
    let (q, k, v) = (heads_first(step, 0)?, heads_first(step, 1)?, heads_first(step, 2)?);
    let out = step.mlx.attention(&q, &k, &v, step.float("scale"), mask.as_ref())?;
    let dtype = if step.mlx.gpu { step.types[0].dtype } else { DType::F32 };
    let out = where_seeing(step.mlx, &out, mask.as_ref(), dtype)?;
    step.narrow(0, &step.mlx.permute(&out, &[0, 2, 1, 3])?)
}

pub fn grad(step: &Step) -> Results {
    if step.attrs.get_bool("lse") {
        return grad_from_lse(step);
    }
    let mask = mask(step, &shape(step))?;
    let (q, k, v) = (heads_first(step, 0)?, heads_first(step, 1)?, heads_first(step, 2)?);
    let dout = heads_first(step, shape(step).dout())?;
    let dtype = if step.mlx.gpu { step.types[0].dtype } else { DType::F32 };
    let dout = where_seeing(step.mlx, &dout, mask.as_ref(), dtype)?;
    let (mlx, scale) = (step.mlx.same()?, step.float("scale"));
    let forward =
        Closure::new(move |x| Ok(vec![mlx.attention(&x[0], &x[1], &x[2], scale, mask.as_ref())?]));
    let products = forward.vjp(&[&q, &k, &v], &[&dout])?;
    let results = products.iter().enumerate().map(|(i, product)| {
        let turned = step.mlx.permute(product, &[0, 2, 1, 3])?;
        step.narrow(i, &turned).map(Some)
    });
    results.collect()
}

/// With the forward op's results given, in f32. The host gives them only to a device whose attention gives `lse`:
/// this is for programs written by others.
fn grad_from_lse(step: &Step) -> Results {
    let (mlx, shape) = (step.mlx, shape(step));
    let AttentionShape { batch: b, queries: t, keys: s, heads, groups, .. } = shape;
    // [B, G, H/G, T, C] and [B, G, 1, S, C]
    let split = |i: usize, heads_per_group: usize| {
        let length = step.types[i].shape[1];
        let wide = mlx.permute(&step.wide(i)?, &[0, 2, 1, 3])?;
        mlx.reshape(&wide, &[b, groups, heads_per_group, length, step.types[i].shape[3]])
    };
    let per_group = shape.heads_per_group();
    let first = shape.dout();
    let (q, k, v) = (split(0, per_group)?, split(1, 1)?, split(2, 1)?);
    let (dout, out) = (split(first, per_group)?, split(first + 1, per_group)?);
    let lse = mlx.reshape(step.operands[first + 2], &[b, groups, per_group, t, 1])?;
    let mask = mlx.reshape(&seen(step, &shape)?, &[b, 1, 1, t, s])?;
    let scale = scalar(step.float("scale"))?;
    let scores = mlx.mul(&mlx.matmul(&q, &mlx.transpose(&k)?)?, &scale)?;
    let p = mlx.select(&mask, &mlx.exp(&mlx.sub(&scores, &lse)?)?, &scalar(0.0)?)?;
    let delta = mlx.sum(&mlx.mul(&dout, &out)?, &[4])?;
    let dp = mlx.matmul(&dout, &mlx.transpose(&v)?)?;
    let ds = mlx.mul(&mlx.mul(&p, &mlx.sub(&dp, &delta)?)?, &scale)?;
    let dq = mlx.matmul(&ds, &k)?;
    let dk = mlx.sum(&mlx.matmul(&mlx.transpose(&ds)?, &q)?, &[2])?;
    let dv = mlx.sum(&mlx.matmul(&mlx.transpose(&p)?, &dout)?, &[2])?;
    let finish = |i: usize, gradient: &Array, heads: usize| {
        let to = &step.results[i].shape;
        let joined = mlx.reshape(gradient, &[b, heads, to[1], to[3]])?;
        step.narrow(i, &mlx.permute(&joined, &[0, 2, 1, 3])?).map(Some)
    };
    Ok(vec![finish(0, &dq, heads)?, finish(1, &dk, groups)?, finish(2, &dv, groups)?])
}

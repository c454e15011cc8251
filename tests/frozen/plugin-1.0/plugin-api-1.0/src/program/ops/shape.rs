//! Ops that make values from nothing or move elements without changing them.

use crate::program::attrs::Attrs;
use crate::program::types::{DType, TensorType};

type Types = Result<Vec<TensorType>, String>;

pub(crate) fn infer_constant(_: &[TensorType], attrs: &Attrs) -> Types {
    let (dtype, value) = (attrs.get_dtype("dtype"), attrs.get_float("value"));
    let largest = match dtype {
        DType::U32 => f64::from(u32::MAX),
        DType::Bool => 1.0,
        _ => return Ok(vec![TensorType::scalar(dtype)]),
    };
    if value.fract() != 0.0 || !(0.0..=largest).contains(&value) {
        return Err(format!("value {value} is no whole number from 0 to {largest}"));
    }
    Ok(vec![TensorType::scalar(dtype)])
}

pub(crate) fn infer_iota(_: &[TensorType], attrs: &Attrs) -> Types {
    let ty = TensorType { dtype: attrs.get_dtype("dtype"), shape: attrs.get_ints("shape") };
    if !matches!(ty.dtype, DType::U32 | DType::F32) {
        return Err(format!("dtype is {}; expected u32 or f32", ty.dtype));
    }
    let axis = attrs.get_int("axis");
    match ty.shape.get(axis) {
        None => Err(format!("axis {axis} is no dimension of {ty}")),
        // An f32 holds whole numbers exactly up to 2^24.
        Some(&dim) if dim > u32::MAX as usize || (ty.dtype == DType::F32 && dim > 1 << 24) => {
            Err(format!("dimension {axis} of {ty} is too long to be counted in {}", ty.dtype))
        }
        Some(_) => Ok(vec![ty]),
    }
}

pub(crate) fn infer_reshape(types: &[TensorType], attrs: &Attrs) -> Types {
    let ty = types[0].with_shape(&attrs.get_ints("shape"));
    ty.check()?;
    if ty.elements() != types[0].elements() {
        return Err(format!("{} elements cannot be {ty}", types[0].elements()));
    }
    Ok(vec![ty])
}

pub(crate) fn infer_permute(types: &[TensorType], attrs: &Attrs) -> Types {
    let (x, perm) = (&types[0], attrs.get_ints("perm"));
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.rank()) {
        return Err(format!("perm {perm:?} is no order of the dimensions of {x}"));
    }
    let shape: Vec<_> = perm.iter().map(|&dim| x.shape[dim]).collect();
    Ok(vec![x.with_shape(&shape)])
}

pub(crate) fn infer_broadcast(types: &[TensorType], attrs: &Attrs) -> Types {
    let (x, shape) = (&types[0], attrs.get_ints("shape"));
    let fits = x.rank() <= shape.len()
        && x.shape.iter().rev().zip(shape.iter().rev()).all(|(&have, &want)| have == want || have == 1);
    if !fits {
        return Err(format!("{x} cannot be repeated to {}", x.with_shape(&shape)));
    }
    Ok(vec![x.with_shape(&shape)])
}

pub(crate) fn infer_slice(types: &[TensorType], attrs: &Attrs) -> Types {
    let (x, start, size) = (&types[0], attrs.get_ints("start"), attrs.get_ints("size"));
    let fits = start.len() == x.rank()
        && size.len() == x.rank()
        && (0..x.rank()).all(|i| start[i] <= x.shape[i] && size[i] <= x.shape[i] - start[i]);
    if !fits {
        return Err(format!("the block at {start:?} of shape {size:?} does not lie within {x}"));
    }
    Ok(vec![x.with_shape(&size)])
}

pub(crate) fn infer_pad(types: &[TensorType], attrs: &Attrs) -> Types {
    let (x, low, high) = (&types[0], attrs.get_ints("low"), attrs.get_ints("high"));
    if low.len() != x.rank() || high.len() != x.rank() {
        return Err(format!("low {low:?} and high {high:?} need one number for each dimension of {x}"));
    }
    let shape: Option<Vec<usize>> =
        (0..x.rank()).map(|i| x.shape[i].checked_add(low[i])?.checked_add(high[i])).collect();
    Ok(vec![x.with_shape(&shape.ok_or("the padded shape is too large")?)])
}

pub(crate) fn infer_concat(types: &[TensorType], attrs: &Attrs) -> Types {
    let axis = attrs.get_int("axis");
    let mut result = types[0].clone();
    if axis >= result.rank() {
        return Err(format!("axis {axis} is no dimension of {result}"));
    }
    for ty in &types[1..] {
        let mut as_first = ty.clone();
        if let Some(dim) = as_first.shape.get_mut(axis) {
            *dim = types[0].shape[axis];
        }
        if as_first != types[0] {
            return Err(format!("{ty} cannot follow {} along axis {axis}", types[0]));
        }
        let length = result.shape[axis].checked_add(ty.shape[axis]);
        result.shape[axis] = length.ok_or("the joined shape is too large")?;
    }
    Ok(vec![result])
}

//! Ops whose positions are run-time values.

use super::{expect, expect_shape, float, same};
use crate::program::attrs::Attrs;
use crate::program::types::{DType, TensorType};

type Types = Result<Vec<TensorType>, String>;

fn indices(ty: &TensorType) -> Result<(), String> {
    expect(ty, DType::U32, &ty.shape, "indices")
}

fn rows(table: &TensorType, indices: &TensorType) -> Result<TensorType, String> {
    if table.rank() == 0 {
        return Err(format!("{table} has no rows"));
    }
    Ok(table.with_shape(&[&indices.shape, &table.shape[1..]].concat()))
}

pub(crate) fn infer_gather(types: &[TensorType], _: &Attrs) -> Types {
    indices(&types[1])?;
    Ok(vec![rows(&types[0], &types[1])?])
}

pub(crate) fn infer_scatter_add(types: &[TensorType], _: &Attrs) -> Types {
    float(&types[0], "base")?;
    indices(&types[1])?;
    same(&types[2], &rows(&types[0], &types[1])?, "updates and the rows they are added to")?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_dynamic_slice(types: &[TensorType], attrs: &Attrs) -> Types {
    expect(&types[1], DType::U32, &[], "start")?;
    let (axis, size) = (attrs.get_int("axis"), attrs.get_int("size"));
    let mut result = types[0].clone();
    match result.shape.get_mut(axis) {
        Some(dim) if size <= *dim => *dim = size,
        _ => return Err(format!("{size} elements along axis {axis} are not in {}", types[0])),
    }
    Ok(vec![result])
}

pub(crate) fn infer_update_slice(types: &[TensorType], attrs: &Attrs) -> Types {
    let (base, update, axis) = (&types[0], &types[1], attrs.get_int("axis"));
    expect(&types[2], DType::U32, &[], "start")?;
    let mut shape = base.shape.clone();
    match (shape.get_mut(axis), update.shape.get(axis)) {
        (Some(dim), Some(&size)) if size <= *dim => *dim = size,
        _ => return Err(format!("{update} does not fit into {base} along axis {axis}")),
    }
    expect_shape(update, &shape, "update")?;
    if update.dtype != base.dtype {
        return Err(format!("update is {update}; expected elements of {}", base.dtype));
    }
    Ok(vec![base.clone()])
}

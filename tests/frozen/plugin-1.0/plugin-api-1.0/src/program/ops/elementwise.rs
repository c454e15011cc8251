//! Elementwise ops.

use super::{expect_shape, float, same};
use crate::program::attrs::Attrs;
use crate::program::types::{DType, TensorType};

type Types = Result<Vec<TensorType>, String>;

pub(crate) fn infer_cast(types: &[TensorType], attrs: &Attrs) -> Types {
    Ok(vec![types[0].with_dtype(attrs.get_dtype("dtype"))])
}

pub(crate) fn infer_unary(types: &[TensorType], _: &Attrs) -> Types {
    float(&types[0], "x")?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_not(types: &[TensorType], _: &Attrs) -> Types {
    only(&types[0], &[DType::Bool])?;
    Ok(vec![types[0].clone()])
}

pub(crate) fn infer_arith(types: &[TensorType], _: &Attrs) -> Types {
    only(&types[0], &[DType::F32, DType::F16, DType::Bf16, DType::U32])?;
    pair(types)
}

pub(crate) fn infer_bits(types: &[TensorType], _: &Attrs) -> Types {
    only(&types[0], &[DType::U32, DType::Bool])?;
    pair(types)
}

pub(crate) fn infer_shift(types: &[TensorType], _: &Attrs) -> Types {
    only(&types[0], &[DType::U32])?;
    pair(types)
}

pub(crate) fn infer_compare(types: &[TensorType], _: &Attrs) -> Types {
    same(&types[0], &types[1], "a and b")?;
    Ok(vec![types[0].with_dtype(DType::Bool)])
}

pub(crate) fn infer_select(types: &[TensorType], _: &Attrs) -> Types {
    only(&types[0], &[DType::Bool])?;
    same(&types[1], &types[2], "a and b")?;
    expect_shape(&types[0], &types[1].shape, "cond")?;
    Ok(vec![types[1].clone()])
}

fn pair(types: &[TensorType]) -> Types {
    same(&types[0], &types[1], "a and b")?;
    Ok(vec![types[0].clone()])
}

fn only(ty: &TensorType, dtypes: &[DType]) -> Result<(), String> {
    if dtypes.contains(&ty.dtype) {
        return Ok(());
    }
    let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
    Err(format!("the first operand is {ty}; expected one of: {}", names.join(", ")))
}

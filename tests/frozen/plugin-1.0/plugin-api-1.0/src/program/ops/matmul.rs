//! The matrix product.

use super::float;
use crate::program::attrs::Attrs;
use crate::program::types::TensorType;

pub(crate) fn infer_matmul(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let (a, b) = (&types[0], &types[1]);
    float(a, "a")?;
    let batch = a.rank().saturating_sub(2);
    if a.dtype != b.dtype || a.rank() < 2 || a.rank() != b.rank() || a.shape[..batch] != b.shape[..batch] {
        return Err(format!("{a} and {b} differ in type or in all but the last two dimensions"));
    }
    let pair = |ty: &TensorType, transposed: bool| match transposed {
        false => (ty.shape[batch], ty.shape[batch + 1]),
        true => (ty.shape[batch + 1], ty.shape[batch]),
    };
    let (m, inner) = pair(a, attrs.get_bool("transpose_a"));
    let (inner_b, n) = pair(b, attrs.get_bool("transpose_b"));
    if inner != inner_b {
        return Err(format!("the summed dimensions are {inner} and {inner_b}"));
    }
    let mut shape = a.shape[..batch].to_vec();
    shape.extend([m, n]);
    Ok(vec![a.with_shape(&shape)])
}

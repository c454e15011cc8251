//! Shape and dtype rules and decompositions, by family; and short names for applying ops with a
//! [`Builder`](super::Builder).

pub mod activation;
pub mod attention;
mod compose;
pub mod elementwise;
pub mod index;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod optim;
pub mod quant;
pub mod random;
pub mod reduce;
pub mod rope;
pub mod shape;
pub mod softmax;

use super::types::{DType, TensorType};

fn float(ty: &TensorType, what: &str) -> Result<(), String> {
    if ty.dtype.is_float() { Ok(()) } else { Err(format!("{what} is {ty}; expected a float type")) }
}

fn same(a: &TensorType, b: &TensorType, what: &str) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: {a} and {b} differ; expected the same type")) }
}

fn expect(ty: &TensorType, dtype: DType, shape: &[usize], what: &str) -> Result<(), String> {
    let want = TensorType::new(dtype, shape);
    if *ty == want { Ok(()) } else { Err(format!("{what} is {ty}; expected {want}")) }
}

fn expect_shape(ty: &TensorType, shape: &[usize], what: &str) -> Result<(), String> {
    if ty.shape == shape {
        Ok(())
    } else {
        Err(format!("{what} is {ty}; expected the shape {}", ty.with_shape(shape)))
    }
}

fn dims<'a, const N: usize>(ty: &'a TensorType, what: &str) -> Result<&'a [usize; N], String> {
    ty.shape.as_slice().try_into().map_err(|_| format!("{what} is {ty}; expected {N} dimensions"))
}

fn last_dim(ty: &TensorType, what: &str) -> Result<usize, String> {
    ty.shape.last().copied().ok_or_else(|| format!("{what} is a scalar; expected at least one dimension"))
}

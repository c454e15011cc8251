//! Reductions.

use super::float;
use crate::program::attrs::Attrs;
use crate::program::types::TensorType;

pub(crate) fn infer_reduce(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let x = &types[0];
    float(x, "x")?;
    let axes = attrs.get_ints("axes");
    if axes.is_empty() || !axes.is_sorted_by(|a, b| a < b) || axes.iter().any(|&axis| axis >= x.rank()) {
        return Err(format!("axes {axes:?} are not ascending dimensions of {x}, at least one"));
    }
    let mut shape = x.shape.clone();
    axes.iter().for_each(|&axis| shape[axis] = 1);
    Ok(vec![x.with_shape(&shape)])
}

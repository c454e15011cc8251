//! Softmax over the last dimension.

use finetune_plugin_api::export::Error;

use super::Step;
use crate::mlx::Array;

pub fn forward(step: &Step) -> Result<Array, Error> {
    if step.is_direct(&[0]) {
        return step.mlx.softmax(step.operands[0]);
    }
    step.narrow(0, &step.mlx.softmax(&step.wide(0)?)?)
}

pub fn grad(step: &Step) -> Result<Array, Error> {
    let (mlx, y, dy) = (step.mlx, step.wide(0)?, step.wide(1)?);
    let last = step.types[0].shape.len() - 1;
    let sum = mlx.sum(&mlx.mul(&y, &dy)?, &[last])?;
    step.narrow(0, &mlx.mul(&y, &mlx.sub(&dy, &sum)?)?)
}

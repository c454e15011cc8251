//! Ops that make or move elements.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::{DType, Op};

use super::Step;
use crate::mlx::{self, Array};

pub fn run(step: &Step) -> Result<Array, Error> {
    let list = |name: &str| step.attrs.get_ints(name);
    let mlx = step.mlx;
    let x = || step.operands[0];
    match step.op {
        Op::Constant => constant(step.results[0].dtype, step.attrs.get_float("value")),
        Op::Iota => {
            let (shape, axis) = (&step.results[0].shape, step.attrs.get_int("axis"));
            let mut line = vec![1; shape.len()];
            line[axis] = shape[axis];
            let counted = mlx.count(shape[axis], step.results[0].dtype)?;
            mlx.broadcast(&mlx.reshape(&counted, &line)?, shape)
        }
        Op::Reshape => mlx.reshape(x(), &list("shape")),
        Op::Permute => mlx.permute(x(), &list("perm")),
        Op::Broadcast => mlx.broadcast(x(), &list("shape")),
        Op::Slice => mlx.slice(x(), &list("start"), &list("size")),
        Op::Pad => {
            let value = constant(step.types[0].dtype, step.attrs.get_float("value"))?;
            mlx.pad(x(), &list("low"), &list("high"), &value)
        }
        _ => mlx.concat(&step.operands, step.attrs.get_int("axis")),
    }
}

/// A scalar, rounded once.
pub fn constant(dtype: DType, value: f64) -> Result<Array, Error> {
    mlx::from_bytes(&dtype.element(value), &[], dtype)
}

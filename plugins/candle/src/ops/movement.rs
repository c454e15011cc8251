//! Ops that make or move elements.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::{DType, Op};

use super::Step;
use crate::kernel::elementwise::{self, Code, From, Operand, Steps};

pub fn run(step: &Step) -> Result<Tensor> {
    let list = |name: &str| step.attrs.get_ints(name);
    let x = || step.operands[0];
    match step.op {
        Op::Constant => constant(step, &[]),
        Op::Iota => {
            let (shape, axis) = (&step.results[0].shape, step.attrs.get_int("axis"));
            let mut line = vec![1; shape.len()];
            line[axis] = shape[axis];
            if !step.is_cpu() {
                let code = if step.results[0].dtype == DType::F32 { Code::WordToFloat } else { Code::Take };
                let steps = Steps::one(code, From::Operand(0), From::Nothing);
                let dtype = super::candle_type(step.results[0].dtype);
                return elementwise::run(step.placed, &steps, &[Operand::Index(axis)], dtype, shape);
            }
            let counted = Tensor::arange(0, shape[axis] as u32, step.placed)?;
            let counted = match step.results[0].dtype {
                DType::F32 => counted.to_dtype(CandleType::F32)?,
                _ => counted,
            };
            counted.reshape(line)?.broadcast_as(shape.as_slice())
        }
        Op::Reshape => super::flat(x())?.reshape(list("shape")),
        Op::Permute => x().permute(list("perm")),
        Op::Broadcast => x().broadcast_as(list("shape")),
        Op::Slice => {
            let mut each = list("start").into_iter().zip(list("size")).enumerate();
            each.try_fold(x().clone(), |x, (axis, (start, size))| x.narrow(axis, start, size))
        }
        Op::Pad => pad(step, &list("low"), &list("high")),
        _ => Tensor::cat(&step.operands, step.attrs.get_int("axis")),
    }
}

/// The attribute `value`, everywhere.
fn constant(step: &Step, shape: &[usize]) -> Result<Tensor> {
    let ty = step.results[0];
    let element = Tensor::from_raw_buffer(
        &ty.dtype.element(step.attrs.get_float("value")),
        super::candle_type(ty.dtype),
        &[],
        step.placed,
    )?;
    element.broadcast_as(shape)
}

fn pad(step: &Step, low: &[usize], high: &[usize]) -> Result<Tensor> {
    let mut x = step.operands[0].clone();
    for (axis, (&low, &high)) in low.iter().zip(high).enumerate() {
        let edge = |length: usize| {
            let mut shape = x.dims().to_vec();
            shape[axis] = length;
            constant(step, &shape)
        };
        let parts = [(low > 0).then(|| edge(low)), Some(Ok(x.clone())), (high > 0).then(|| edge(high))];
        let parts: Vec<Tensor> = parts.into_iter().flatten().collect::<Result<_>>()?;
        if parts.len() > 1 {
            x = Tensor::cat(&parts, axis)?;
        }
    }
    Ok(x)
}

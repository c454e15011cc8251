//! Sums and largest elements.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::Op;

use super::Step;
use crate::mlx::Array;

pub fn run(step: &Step) -> Result<Array, Error> {
    let axes: Vec<usize> = step.attrs.get_ints("axes");
    if axes.is_empty() {
        return Ok(step.operands[0].clone());
    }
    let wide = step.wide(0)?;
    let reduced =
        if step.op == Op::ReduceSum { step.mlx.sum(&wide, &axes) } else { step.mlx.max(&wide, &axes) };
    step.narrow(0, &reduced?)
}

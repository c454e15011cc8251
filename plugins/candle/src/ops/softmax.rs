//! Softmax and its gradient.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::rows_and_width;

use super::Step;
use crate::host;
use crate::kernel::{self, Numbers};

pub fn forward(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::softmax::forward(step);
    }
    launch(step, "softmax")
}

pub fn grad(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::softmax::grad(step);
    }
    launch(step, "softmax_grad")
}

/// Over rows: the result may lie where any operand lies.
fn launch(step: &Step, name: &str) -> Result<Tensor> {
    let (rows, width) = rows_and_width(&step.results[0].shape);
    let operands: Vec<Tensor> = (0..step.operands.len()).map(|i| step.flat(i)).collect::<Result<_>>()?;
    let y = step.over(0, &(0..operands.len()).collect::<Vec<_>>())?;
    let tensors: Vec<&Tensor> = operands.iter().chain([&y]).collect();
    let numbers = Numbers::new(&[rows, width, usize::from(kernel::is_wide(&tensors, width))], &[]);
    let name = format!("{name}_{}", kernel::suffix(y.dtype())?);
    kernel::launch(&name, &tensors, numbers, rows, kernel::threads_for(width, 1024))?;
    Ok(y)
}

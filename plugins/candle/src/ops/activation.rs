//! Activations, gated and not, and their gradients.

use candle_core::{Result, Tensor};
use finetune_plugin_api::program::Op;

use super::Step;
use crate::host;
use crate::kernel::{self, Numbers};

fn kind(step: &Step) -> usize {
    match step.attrs.get_word("kind") {
        "silu" => 0,
        "gelu" => 1,
        _ => 2,
    }
}

fn launch(step: &Step, name: &str, results: &[&Tensor]) -> Result<()> {
    let operands: Vec<Tensor> = (0..step.operands.len()).map(|i| step.flat(i)).collect::<Result<_>>()?;
    let tensors: Vec<&Tensor> = operands.iter().chain(results.iter().copied()).collect();
    let count = results[0].elem_count();
    // The last elements are taken one by one, so their number need not be even.
    let is_wide = kernel::is_wide(&tensors, kernel::VECTOR);
    let numbers = Numbers::new(&[count, kind(step), usize::from(is_wide)], &[]);
    let name = format!("{name}_{}", kernel::suffix(results[0].dtype())?);
    kernel::launch(&name, &tensors, numbers, kernel::blocks_for(count), kernel::THREADS)
}

/// All but the gradient of the gated ones.
pub fn run(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::activation::run(step);
    }
    let name = match step.op {
        Op::Activation => "activation",
        Op::ActivationGrad => "activation_grad",
        _ => "gated",
    };
    let all: Vec<usize> = (0..step.operands.len()).collect();
    let y = step.over(0, &all)?;
    launch(step, name, &[&y])?;
    Ok(y)
}

pub fn gated_grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::activation::gated_grad(step);
    }
    let dgate = step.over(0, &[0, 2])?;
    let mut dup = step.over(1, &[1])?;
    if super::share_memory(&dgate, &dup) {
        dup = step.empty(1)?;
    }
    launch(step, "gated_grad", &[&dgate, &dup])?;
    Ok(vec![Some(dgate), Some(dup)])
}

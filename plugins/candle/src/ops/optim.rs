//! The optimizer.

use candle_core::{DType as CandleType, Result, Tensor};

use super::Step;
use crate::host;
use crate::kernel::{self, Numbers};

pub fn sum_squares(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::optim::sum_squares(step);
    }
    let x = step.flat(0)?;
    let count = x.elem_count();
    let is_wide = usize::from(kernel::is_wide(&[&x], kernel::VECTOR));
    // A block sums what it meets; their sums are added by one.
    let blocks = kernel::blocks_for(count).min(1024);
    let parts = kernel::empty(&[blocks], CandleType::F32, step.placed)?;
    let numbers = Numbers::new(&[count, is_wide], &[]);
    let name = format!("squares_{}", kernel::suffix(x.dtype())?);
    kernel::launch(&name, &[&x, &parts], numbers, blocks, kernel::THREADS)?;
    if blocks == 1 {
        return parts.reshape(());
    }
    let y = step.empty(0)?;
    let numbers = Numbers::new(&[1, blocks, 1, 0, 1], &[]);
    kernel::launch("reduce_rows_f32", &[&parts, &y], numbers, 1, kernel::THREADS)?;
    Ok(y)
}

/// One pass over parameter, moments and gradient, in their places.
pub fn adamw(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::optim::adamw(step);
    }
    let operands: Vec<Tensor> = (0..8).map(|i| step.flat(i)).collect::<Result<_>>()?;
    let results: Vec<Tensor> = (0..3).map(|i| step.over(i, &[i])).collect::<Result<_>>()?;
    let tensors: Vec<&Tensor> = operands.iter().chain(&results).collect();
    let count = operands[0].elem_count();
    let elements: Vec<&Tensor> = operands[..4].iter().chain(&results).collect();
    let is_wide = usize::from(kernel::is_wide(&elements, kernel::VECTOR));
    let [beta1, beta2, eps, decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| step.attrs.get_float(name));
    let numbers = Numbers::new(&[count, is_wide], &[beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps, decay]);
    kernel::launch("adamw", &tensors, numbers, kernel::blocks_for(count), kernel::THREADS)?;
    Ok(results.into_iter().map(Some).collect())
}

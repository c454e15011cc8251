//! Sums and maxima.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::Op;

use super::Step;

pub fn run(step: &Step) -> Result<Tensor> {
    let axes = step.attrs.get_ints("axes");
    let x = step.wide(0)?.contiguous()?;
    let y = match step.op {
        Op::ReduceSum => x.sum_keepdim(axes)?,
        _ => {
            // Candle's maximum passes over a NaN.
            let nans = x.ne(&x)?.to_dtype(CandleType::F32)?.sum_keepdim(axes.clone())?;
            let most = axes.iter().try_fold(x, |x, &axis| x.max_keepdim(axis))?;
            let nan = Tensor::new(f32::NAN, step.placed)?.broadcast_as(most.dims())?;
            nans.gt(&nans.zeros_like()?)?.where_cond(&nan, &most)?
        }
    };
    step.narrow(0, &y)
}

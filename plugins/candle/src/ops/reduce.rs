//! Sums and maxima.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::Op;

use super::{Step, candle_type};
use crate::kernel::{self, Numbers};

pub fn run(step: &Step) -> Result<Tensor> {
    let axes = step.attrs.get_ints("axes");
    if !step.is_cpu() {
        return on_gpu(step, &axes);
    }
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

/// The axes are brought together at the end, or in the middle if they stand together; then one kernel reduces them.
fn on_gpu(step: &Step, axes: &[usize]) -> Result<Tensor> {
    let shape = &step.types[0].shape;
    let is_sum = step.op == Op::ReduceSum;
    let together = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
        return step.narrow(0, step.operands[0]);
    };
    let product = |dims: &[usize]| dims.iter().product::<usize>();
    let (x, sizes) = if together {
        let sizes = [product(&shape[..first]), product(&shape[first..=last]), product(&shape[last + 1..])];
        (step.flat(0)?, sizes)
    } else {
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
        let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
        let count = axes.iter().map(|&d| shape[d]).product();
        let rows = kept.iter().map(|&d| shape[d]).product();
        (super::flat(&step.operands[0].permute(order)?)?, [rows, count, 1])
    };
    if sizes[2] > 1 {
        return columns(step, 0, &x, sizes, is_sum);
    }
    let y = step.empty(0)?;
    let numbers = Numbers::new(&[sizes[0], sizes[1], 1, 0, usize::from(is_sum)], &[]);
    let name = format!("reduce_rows_{}", kernel::suffix(x.dtype())?);
    kernel::launch(&name, &[&x, &y], numbers, sizes[0], kernel::threads_for(sizes[1], kernel::THREADS))?;
    Ok(y)
}

/// Reduces the middle of x [outer, count, inner] to that result: in parts first, so that there is work for many blocks.
pub fn columns(step: &Step, result: usize, x: &Tensor, sizes: [usize; 3], is_sum: bool) -> Result<Tensor> {
    const EACH: usize = 256;
    let [outer, count, inner] = sizes;
    let (parts, tiles) = (count.div_ceil(EACH), inner.div_ceil(32));
    let middle = kernel::empty(&[outer, parts, inner], CandleType::F32, step.placed)?;
    let numbers = Numbers::new(&[outer, count, inner, EACH, usize::from(is_sum)], &[]);
    let name = format!("reduce_columns_{}", kernel::suffix(x.dtype())?);
    kernel::launch(&name, &[x, &middle], numbers, outer * parts * tiles, kernel::THREADS)?;
    let dtype = candle_type(step.results[result].dtype);
    if parts == 1 && dtype == CandleType::F32 {
        return middle.reshape(step.results[result].shape.as_slice());
    }
    let y = step.empty(result)?;
    let numbers = Numbers::new(&[outer, parts, inner, parts, usize::from(is_sum)], &[]);
    let name = format!("reduce_parts_{}", kernel::suffix(dtype)?);
    kernel::launch(&name, &[&middle, &y], numbers, outer * tiles, kernel::THREADS)?;
    Ok(y)
}

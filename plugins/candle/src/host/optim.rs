//! The optimizer: AdamW in the places of parameter and moments.

use candle_core::{CpuStorage, DType as CandleType, InplaceOp2, InplaceOp3, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{floats, result, scalar, sum};
use crate::ops::{Step, copied};

pub fn sum_squares(step: &Step) -> Result<Tensor> {
    const PIECE: usize = 32 * 1024;
    let x = floats(step.operands[0])?;
    let pieces: Vec<f32> = x.par_chunks(PIECE).map(|piece| sum(piece.iter().map(|x| x * x))).collect();
    result(step, 0, vec![sum(pieces.into_iter())])
}

/// moment = keep moment + add (scale gradient)^power
struct Moment {
    keep: f32,
    add: f32,
    scale: f32,
    power: i32,
}

/// param = param shrink - rate m / (sqrt(v) / root + eps)
struct Update {
    rate: f32,
    root: f32,
    eps: f32,
    shrink: f32,
}

pub fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (first, end) = contiguous(layout)?;
    Ok(&storage.as_slice::<f32>()?[first..end])
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("state lies in one piece".into()))
}

pub fn written<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let (first, end) = contiguous(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[first..end]),
        other => {
            candle_core::bail!("state of {:?}, not f32", candle_core::backend::BackendStorage::dtype(other))
        }
    }
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw moment"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, at: &Layout, g: &CpuStorage, g_at: &Layout) -> Result<()> {
        let pairs = written(m, at)?.par_iter_mut().zip(elements(g, g_at)?);
        pairs.for_each(|(m, g)| *m = self.keep * *m + self.add * (self.scale * g).powi(self.power));
        Ok(())
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw update"
    }

    fn cpu_fwd(
        &self,
        param: &mut CpuStorage,
        at: &Layout,
        m: &CpuStorage,
        m_at: &Layout,
        v: &CpuStorage,
        v_at: &Layout,
    ) -> Result<()> {
        let moments = elements(m, m_at)?.par_iter().zip(elements(v, v_at)?);
        written(param, at)?.par_iter_mut().zip(moments).for_each(|(param, (m, v))| {
            *param = *param * self.shrink - self.rate * (m / (v.sqrt() / self.root + self.eps));
        });
        Ok(())
    }
}

pub fn adamw(step: &Step) -> Result<Vec<Option<Tensor>>> {
    // What something else still reads is not written.
    let place = |i: usize| match step.free[i] {
        true => Ok(step.operands[i].clone()),
        false => copied(step.operands[i]),
    };
    let (param, m, v) = (place(0)?, place(1)?, place(2)?);
    let gradient = step.operands[3].to_dtype(CandleType::F32)?.contiguous()?;
    let [scale, lr, correction1, correction2] = [4, 5, 6, 7].map(|i| scalar(step.operands[i]));
    let (scale, lr, correction1, correction2) = (scale?, lr?, correction1?, correction2?);
    let [beta1, beta2, eps, decay] =
        ["beta1", "beta2", "eps", "weight_decay"].map(|name| step.attrs.get_float(name));
    let moment = |beta: f64, power| Moment { keep: beta as f32, add: (1.0 - beta) as f32, scale, power };
    m.inplace_op2(&gradient, &moment(beta1, 1))?;
    v.inplace_op2(&gradient, &moment(beta2, 2))?;
    let (rate, root) = (lr / correction1, correction2.sqrt());
    param.inplace_op3(&m, &v, &Update { rate, root, eps: eps as f32, shrink: 1.0 - lr * decay as f32 })?;
    Ok(vec![Some(param), Some(m), Some(v)])
}

//! Rotary position embedding.

use candle_core::{Result, Tensor};

use super::Step;
use crate::host;
use crate::kernel::{self, Numbers};

pub fn run(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return host::rope::run(step);
    }
    let [batch, length, heads, channels] = step.types[0].shape[..] else {
        candle_core::bail!("rope wants four dimensions")
    };
    let half = step.types[2].shape[0];
    let scale = step.attrs.get_float("scale");
    let sine = if step.attrs.get_bool("inverse") { -scale } else { scale };
    let (x, positions, inv_freq, y) = (step.flat(0)?, step.flat(1)?, step.flat(2)?, step.over(0, &[0])?);
    let is_interleaved = usize::from(step.attrs.get_bool("interleaved"));
    let numbers = Numbers::new(&[batch * length, heads, channels, half, is_interleaved], &[scale, sine]);
    let name = format!("rope_{}", kernel::suffix(y.dtype())?);
    kernel::launch(&name, &[&x, &positions, &inv_freq, &y], numbers, batch * length, kernel::THREADS)?;
    Ok(y)
}

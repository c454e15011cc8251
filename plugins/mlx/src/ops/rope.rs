//! Rotary positions, composed: MLX's own kernel takes consecutive positions only. Angles are the same for all
//! layers, and MLX computes them once.

use finetune_plugin_api::export::Error;

use super::{Step, scalar};
use crate::mlx::Array;

pub fn run(step: &Step) -> Result<Array, Error> {
    let mlx = step.mlx;
    let [b, t, h, d] = step.types[0].shape[..] else {
        return Err(Error::invalid_program("rope takes four dimensions"));
    };
    let half = step.types[2].shape[0];
    let positions = mlx.reshape(&mlx.f32(step.operands[1])?, &[b, t, 1, 1])?;
    let angles = mlx.mul(&positions, &mlx.reshape(step.operands[2], &[1, 1, 1, half])?)?;
    let scale = step.float("scale");
    let scaled = |x: Array| if scale == 1.0 { Ok(x) } else { mlx.mul(&x, &scalar(scale)?) };
    let cos = scaled(mlx.cos(&angles)?)?;
    let sin = scaled(mlx.sin(&angles)?)?;
    let sin = if step.attrs.get_bool("inverse") { mlx.neg(&sin)? } else { sin };
    let interleaved = step.attrs.get_bool("interleaved");
    let part = |from: usize, size: usize| mlx.slice(step.operands[0], &[0, 0, 0, from], &[b, t, h, size]);
    let (x1, x2) = if interleaved {
        let pairs = mlx.reshape(&part(0, 2 * half)?, &[b, t, h, half, 2])?;
        let side =
            |i| mlx.reshape(&mlx.slice(&pairs, &[0, 0, 0, 0, i], &[b, t, h, half, 1])?, &[b, t, h, half]);
        (side(0)?, side(1)?)
    } else {
        (part(0, half)?, part(half, half)?)
    };
    let (x1, x2) = (mlx.f32(&x1)?, mlx.f32(&x2)?);
    let y1 = step.narrow(0, &mlx.sub(&mlx.mul(&x1, &cos)?, &mlx.mul(&x2, &sin)?)?)?;
    let y2 = step.narrow(0, &mlx.add(&mlx.mul(&x2, &cos)?, &mlx.mul(&x1, &sin)?)?)?;
    let mut parts = if interleaved {
        let side = |y: &Array| mlx.reshape(y, &[b, t, h, half, 1]);
        let pairs = mlx.concat(&[&side(&y1)?, &side(&y2)?], 4)?;
        vec![mlx.reshape(&pairs, &[b, t, h, 2 * half])?]
    } else {
        vec![y1, y2]
    };
    if d > 2 * half {
        parts.push(part(2 * half, d - 2 * half)?);
    }
    mlx.concat(&parts.iter().collect::<Vec<_>>(), 3)
}

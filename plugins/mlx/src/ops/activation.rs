//! Activations and gates in f32; MLX fuses each into one kernel.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::Op;

use super::elementwise::erf;
use super::{Results, Step, scalar};
use crate::mlx::{Array, Mlx};

/// The value of an activation and its derivative.
fn both(mlx: &Mlx, kind: &str, x: &Array) -> Result<(Array, Array), Error> {
    let (one, half) = (scalar(1.0)?, scalar(0.5)?);
    match kind {
        "silu" => {
            let s = mlx.sigmoid(x)?;
            let y = mlx.mul(x, &s)?;
            // s (1 + x (1 - s))
            let slope = mlx.mul(&s, &mlx.add(&one, &mlx.mul(x, &mlx.sub(&one, &s)?)?)?)?;
            Ok((y, slope))
        }
        "gelu" => {
            let root = scalar(std::f32::consts::FRAC_1_SQRT_2)?;
            let phi = mlx.mul(&half, &mlx.add(&one, &erf(mlx, &mlx.mul(x, &root)?)?)?)?;
            let density = mlx.exp(&mlx.mul(&scalar(-0.5)?, &mlx.square(x)?)?)?;
            let density = mlx.mul(&density, &scalar(0.398_942_3)?)?;
            Ok((mlx.mul(x, &phi)?, mlx.add(&phi, &mlx.mul(x, &density)?)?))
        }
        _ => {
            let (c, a) = (scalar(0.797_884_6)?, 0.044_715f32);
            let square = mlx.square(x)?;
            let inner = mlx.mul(&mlx.mul(&c, x)?, &mlx.add(&one, &mlx.mul(&scalar(a)?, &square)?)?)?;
            let t = mlx.tanh(&inner)?;
            let gate = mlx.mul(&half, &mlx.add(&one, &t)?)?;
            let slope = mlx.mul(&c, &mlx.add(&one, &mlx.mul(&scalar(3.0 * a)?, &square)?)?)?;
            let rest = mlx.mul(&mlx.mul(&half, x)?, &mlx.sub(&one, &mlx.square(&t)?)?)?;
            Ok((mlx.mul(x, &gate)?, mlx.add(&gate, &mlx.mul(&rest, &slope)?)?))
        }
    }
}

pub fn plain(step: &Step) -> Result<Array, Error> {
    let (y, slope) = both(step.mlx, step.attrs.get_word("kind"), &step.wide(0)?)?;
    if step.op == Op::Activation {
        return step.narrow(0, &y);
    }
    step.narrow(0, &step.mlx.mul(&step.wide(1)?, &slope)?)
}

/// Each result from the operands as they are in memory: MLX makes one kernel of what leads to one result, and a value
/// that two results share is a kernel of its own and goes through memory, in f32.
pub fn gated(step: &Step) -> Results {
    let mlx = step.mlx;
    let gate = || both(mlx, step.attrs.get_word("kind"), &step.wide(0)?);
    if step.op == Op::Gated {
        return Ok(vec![Some(step.narrow(0, &mlx.mul(&gate()?.0, &step.wide(1)?)?)?)]);
    }
    let dgate = mlx.mul(&mlx.mul(&step.wide(2)?, &step.wide(1)?)?, &gate()?.1)?;
    let dup = mlx.mul(&step.wide(2)?, &gate()?.0)?;
    Ok(vec![Some(step.narrow(0, &dgate)?), Some(step.narrow(1, &dup)?)])
}

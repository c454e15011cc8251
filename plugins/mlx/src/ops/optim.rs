//! The optimizer's ops.

use finetune_plugin_api::export::Error;

use super::{Results, Step, scalar};
use crate::mlx::Array;

pub fn sum_squares(step: &Step) -> Result<Array, Error> {
    step.mlx.sum_all(&step.mlx.square(&step.wide(0)?)?)
}

pub fn adamw(step: &Step) -> Results {
    let mlx = step.mlx;
    let [param, m, v, grad, scale, lr, correction1, correction2] = step.operands[..] else {
        return Err(Error::invalid_program("adamw takes eight operands"));
    };
    let number = |name: &str| step.attrs.get_float(name);
    let (beta1, beta2) = (number("beta1"), number("beta2"));
    let mix = |old: &Array, new: &Array, beta: f64| {
        mlx.add(&mlx.mul(&scalar(beta as f32)?, old)?, &mlx.mul(&scalar((1.0 - beta) as f32)?, new)?)
    };
    let g = mlx.mul(scale, grad)?;
    let m = mix(m, &g, beta1)?;
    let v = mix(v, &mlx.square(&g)?, beta2)?;
    let root = mlx.div(&mlx.sqrt(&v)?, &mlx.sqrt(correction2)?)?;
    let step_size = mlx.div(lr, correction1)?;
    let moved = mlx.div(&mlx.mul(&step_size, &m)?, &mlx.add(&root, &scalar(number("eps") as f32)?)?)?;
    let decay = mlx.sub(&scalar(1.0)?, &mlx.mul(lr, &scalar(number("weight_decay") as f32)?)?)?;
    let param = mlx.sub(&mlx.mul(param, &decay)?, &moved)?;
    Ok(vec![Some(param), Some(m), Some(v)])
}

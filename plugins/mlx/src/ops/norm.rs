//! Norms by MLX's fast kernels, which compute in f32, and their gradients by MLX's own.

use finetune_plugin_api::export::Error;

use super::{Results, Step};
use crate::mlx::{Array, Closure};

/// Operands in one type that the kernels take: their own, or f32.
fn operands(step: &Step) -> Result<Vec<Array>, Error> {
    let all: Vec<usize> = (0..step.operands.len()).collect();
    if step.is_direct(&all) {
        return Ok(step.operands.iter().map(|&array| array.clone()).collect());
    }
    all.into_iter().map(|i| step.wide(i)).collect()
}

pub fn rms(step: &Step) -> Result<Array, Error> {
    let operands = operands(step)?;
    step.narrow(0, &step.mlx.rms_norm(&operands[0], Some(&operands[1]), step.float("eps"))?)
}

pub fn layer(step: &Step) -> Result<Array, Error> {
    let operands = operands(step)?;
    let y = step.mlx.layer_norm(&operands[0], Some(&operands[1]), Some(&operands[2]), step.float("eps"))?;
    step.narrow(0, &y)
}

pub fn rms_grad(step: &Step) -> Results {
    let operands = operands(step)?;
    let (x, weight, dy) = (&operands[0], &operands[1], &operands[2]);
    let (eps, needs) = (step.float("eps"), &step.needed);
    let norm = Forward { mlx: step.mlx, eps };
    let products = if needs[1] {
        norm.rms(2)?.vjp(&[x, weight], &[dy])?
    } else {
        // The kernel always sums the weight's gradient; without a weight there is none.
        norm.rms(1)?.vjp(&[x], &[&step.mlx.mul(dy, weight)?])?
    };
    finish(step, products)
}

pub fn layer_grad(step: &Step) -> Results {
    let operands = operands(step)?;
    let (x, weight, dy) = (&operands[0], &operands[1], &operands[2]);
    let norm = Forward { mlx: step.mlx, eps: step.float("eps") };
    let products = if step.needed[1] || step.needed[2] {
        // The bias has the weight's type and its value does not matter.
        norm.layer(3)?.vjp(&[x, weight, weight], &[dy])?
    } else {
        norm.layer(1)?.vjp(&[x], &[&step.mlx.mul(dy, weight)?])?
    };
    finish(step, products)
}

fn finish(step: &Step, products: Vec<Array>) -> Results {
    let mut products = products.into_iter();
    let results = step.needed.iter().enumerate().map(|(i, needed)| match (products.next(), needed) {
        (Some(product), true) => step.narrow(i, &product).map(Some),
        _ => Ok(None),
    });
    results.collect()
}

/// A norm as a function of its first operands, to be differentiated.
struct Forward<'a> {
    mlx: &'a crate::mlx::Mlx,
    eps: f32,
}

impl Forward<'_> {
    fn rms(&self, count: usize) -> Result<Closure, Error> {
        let (mlx, eps) = (self.mlx.same()?, self.eps);
        Ok(Closure::new(move |x| Ok(vec![mlx.rms_norm(&x[0], x.get(1).filter(|_| count > 1), eps)?])))
    }

    fn layer(&self, count: usize) -> Result<Closure, Error> {
        let (mlx, eps) = (self.mlx.same()?, self.eps);
        Ok(Closure::new(move |x| {
            let (weight, bias) = (x.get(1).filter(|_| count > 1), x.get(2).filter(|_| count > 2));
            Ok(vec![mlx.layer_norm(&x[0], weight, bias, eps)?])
        }))
    }
}

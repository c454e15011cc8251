//! Matrix products. MLX sums those of shorter types in f32 on a GPU; on the processor they are widened.

use finetune_plugin_api::export::Error;

use super::Step;
use crate::mlx::{Array, Mlx};

pub fn run(step: &Step) -> Result<Array, Error> {
    let mut operands = [step.operands[0].clone(), step.operands[1].clone()];
    for (operand, turned) in operands.iter_mut().zip(["transpose_a", "transpose_b"]) {
        if step.attrs.get_bool(turned) {
            *operand = step.mlx.transpose(operand)?;
        }
    }
    let product = product(step.mlx, &operands[0], &operands[1])?;
    step.narrow(0, &product)
}

/// a b, in the operands' type or in f32.
pub fn product(mlx: &Mlx, a: &Array, b: &Array) -> Result<Array, Error> {
    if mlx.gpu { mlx.matmul(a, b) } else { mlx.matmul(&mlx.f32(a)?, &mlx.f32(b)?) }
}

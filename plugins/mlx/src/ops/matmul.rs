//! Matrix products. MLX sums those of shorter types in f32 on a GPU; on the processor they are widened.

use finetune_plugin_api::export::Error;

use finetune_plugin_api::plan::Term;

use super::Step;
use crate::mlx::{Array, Mlx};

/// The operands, widened, on the processor.
pub fn workspace() -> Vec<Term> {
    let wide = |i| Term { bytes: 4, dims: vec![(i, -2), (i, -1)], half: Some(i), ..Term::default() };
    vec![wide(0), wide(1)]
}

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

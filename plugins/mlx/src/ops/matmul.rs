//! Matrix products. MLX sums those of shorter types in f32 on a GPU; on the processor they are widened.

use finetune_plugin_api::export::Error;

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::Attrs;

use super::Step;
use crate::mlx::{Array, Mlx};

/// The operands, widened, on the processor.
pub fn workspace() -> Vec<Term> {
    let wide = |i| Term { bytes: 4, dims: vec![(i, -2), (i, -1)], half: Some(i), ..Term::default() };
    vec![wide(0), wide(1)]
}

pub fn run(step: &Step) -> Result<Array, Error> {
    let [a, b] = turned(step.mlx, step.attrs, [step.operands[0], step.operands[1]])?;
    step.narrow(0, &product(step.mlx, &a, &b)?)
}

/// The operands as the product takes them.
fn turned(mlx: &Mlx, attrs: &Attrs, [a, b]: [&Array; 2]) -> Result<[Array; 2], Error> {
    let turn = |operand: &Array, name: &str| match attrs.get_bool(name) {
        true => mlx.transpose(operand),
        false => Ok(operand.clone()),
    };
    Ok([turn(a, "transpose_a")?, turn(b, "transpose_b")?])
}

/// a b, in the operands' type or in f32.
pub fn product(mlx: &Mlx, a: &Array, b: &Array) -> Result<Array, Error> {
    if mlx.gpu { mlx.matmul(a, b) } else { mlx.matmul(&mlx.f32(a)?, &mlx.f32(b)?) }
}

/// `to` + a b, or a b alone. In the operands' type: on the processor they are f32.
pub fn add(mlx: &Mlx, to: Option<&Array>, attrs: &Attrs, operands: [&Array; 2]) -> Result<Array, Error> {
    let [a, b] = turned(mlx, attrs, operands)?;
    match to {
        Some(to) => mlx.addmm(to, &a, &b),
        None => mlx.matmul(&a, &b),
    }
}

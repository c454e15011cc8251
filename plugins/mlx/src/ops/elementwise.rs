//! Ops on one element of each operand.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::{DType, Op};

use super::{Step, scalar, scalar_u32};
use crate::mlx::{Array, Mlx};

/// To a float type MLX rounds once; the rest follows the language where MLX leaves it to the device.
pub fn cast(mlx: &Mlx, x: &Array, from: DType, to: DType) -> Result<Array, Error> {
    match (from, to) {
        (from, to) if from == to => Ok(x.clone()),
        (DType::F32 | DType::F16 | DType::Bf16, DType::U32) => to_u32(mlx, &mlx.f32(x)?),
        (DType::F32 | DType::F16 | DType::Bf16, DType::Bool) => mlx.ne(&mlx.f32(x)?, &scalar(0.0)?),
        _ => mlx.cast(x, to),
    }
}

fn to_u32(mlx: &Mlx, x: &Array) -> Result<Array, Error> {
    // The largest f32 below 2^32, and what is beyond it.
    let (most, beyond) = (4_294_967_040.0, 4_294_967_296.0);
    let number = mlx.select(&mlx.isnan(x)?, &scalar(0.0)?, x)?;
    let within = mlx.minimum(&mlx.maximum(&number, &scalar(0.0)?)?, &scalar(most)?)?;
    let whole = mlx.cast(&within, DType::U32)?;
    mlx.select(&mlx.ge(&number, &scalar(beyond)?)?, &scalar_u32(u32::MAX)?, &whole)
}

pub fn unary(step: &Step) -> Result<Array, Error> {
    let (mlx, x) = (step.mlx, step.operands[0]);
    match step.op {
        // Exact in any type.
        Op::Neg => return mlx.neg(x),
        Op::Abs => return mlx.abs(x),
        Op::Not => return mlx.not(x),
        _ => {}
    }
    let x = step.wide(0)?;
    let y = match step.op {
        Op::Exp => mlx.exp(&x),
        Op::Log => mlx.log(&x),
        Op::Sqrt => mlx.sqrt(&x),
        Op::Rsqrt => mlx.rsqrt(&x),
        Op::Sin => mlx.sin(&x),
        Op::Cos => mlx.cos(&x),
        Op::Tanh => mlx.tanh(&x),
        _ => erf(mlx, &x),
    };
    step.narrow(0, &y?)
}

/// MLX's is off by 2e-7 and more near 0, where that is much; there the first terms of the series are exact.
pub fn erf(mlx: &Mlx, x: &Array) -> Result<Array, Error> {
    /// Divisors of x^2k in sqrt(pi)/2 erf(x) / x; the next term is below 1e-9 for |x| < 1/2.
    const TERMS: [f64; 7] = [1.0, -3.0, 10.0, -42.0, 216.0, -1320.0, 9360.0];
    let square = mlx.square(x)?;
    let factor = |term: f64| scalar((std::f64::consts::FRAC_2_SQRT_PI / term) as f32);
    let mut sum = factor(TERMS[6])?;
    for term in TERMS[..6].iter().rev() {
        sum = mlx.add(&mlx.mul(&sum, &square)?, &factor(*term)?)?;
    }
    let near = mlx.lt(&square, &scalar(0.25)?)?;
    mlx.select(&near, &mlx.mul(x, &sum)?, &mlx.erf(x)?)
}

pub fn binary(step: &Step) -> Result<Array, Error> {
    let (mlx, a, b) = (step.mlx, step.operands[0], step.operands[1]);
    let dtype = step.types[0].dtype;
    match step.op {
        Op::Add => mlx.add(a, b),
        Op::Sub => mlx.sub(a, b),
        Op::Mul => mlx.mul(a, b),
        Op::Div if dtype == DType::U32 => {
            let zero = mlx.eq(b, &scalar_u32(0)?)?;
            let quotient = mlx.floor_div(a, &mlx.select(&zero, &scalar_u32(1)?, b)?)?;
            mlx.select(&zero, &scalar_u32(0)?, &quotient)
        }
        Op::Div => mlx.div(a, b),
        Op::Max => mlx.maximum(a, b),
        Op::Min => mlx.minimum(a, b),
        Op::And if dtype == DType::Bool => mlx.and(a, b),
        Op::Or if dtype == DType::Bool => mlx.or(a, b),
        Op::And => mlx.bit_and(a, b),
        Op::Or => mlx.bit_or(a, b),
        _ => {
            let by = mlx.bit_and(b, &scalar_u32(31)?)?;
            let shifted = if step.op == Op::Shl { mlx.shl(a, &by) } else { mlx.shr(a, &by) }?;
            mlx.select(&mlx.lt(b, &scalar_u32(32)?)?, &shifted, &scalar_u32(0)?)
        }
    }
}

pub fn compare(step: &Step) -> Result<Array, Error> {
    let (mlx, a, b) = (step.mlx, step.operands[0], step.operands[1]);
    match step.attrs.get_word("kind") {
        "eq" => mlx.eq(a, b),
        "ne" => mlx.ne(a, b),
        "lt" => mlx.lt(a, b),
        "le" => mlx.le(a, b),
        "gt" => mlx.gt(a, b),
        _ => mlx.ge(a, b),
    }
}

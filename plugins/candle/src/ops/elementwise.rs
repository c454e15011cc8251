//! Ops on one element of each operand.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::{DType, Op};

use super::Step;
use crate::kernel::{self, Word};

/// Candle's type for one of the language's, all of which it has (`compile` saw to that).
pub fn candle_type(dtype: DType) -> CandleType {
    crate::device::candle_type(dtype).unwrap_or(CandleType::U8)
}

/// Candle rounds once between float types; the rest is the language's.
pub fn cast(x: &Tensor, to: DType) -> Result<Tensor> {
    let target = candle_type(to);
    match (x.dtype(), to) {
        (from, _) if from == target => Ok(x.clone()),
        (_, DType::Bool) => {
            let zero = x.zeros_like()?;
            x.ne(&zero)
        }
        (CandleType::U32, DType::F16 | DType::Bf16) => kernel::cast_words(x, target),
        (CandleType::F32 | CandleType::F16 | CandleType::BF16, DType::U32) => {
            kernel::cast_to_words(&x.to_dtype(CandleType::F32)?)
        }
        _ => x.to_dtype(target),
    }
}

pub fn unary(step: &Step) -> Result<Tensor> {
    let x = step.operands[0];
    match step.op {
        // Exact in any type.
        Op::Neg => return x.neg(),
        Op::Abs => return x.abs(),
        Op::Not => return x.eq(&x.zeros_like()?),
        _ => {}
    }
    let x = step.wide(0)?;
    let y = match step.op {
        Op::Exp => x.exp(),
        Op::Log => x.log(),
        Op::Sqrt => x.sqrt(),
        Op::Rsqrt => x.sqrt()?.recip(),
        Op::Sin => x.sin(),
        Op::Cos => x.cos(),
        Op::Tanh => x.tanh(),
        _ => x.erf(),
    };
    step.narrow(0, &y?)
}

pub fn binary(step: &Step) -> Result<Tensor> {
    let (a, b) = (step.operands[0], step.operands[1]);
    if matches!(step.types[0].dtype, DType::U32 | DType::Bool) {
        let word = match step.op {
            Op::Add => Word::Add,
            Op::Sub => Word::Sub,
            Op::Mul => Word::Mul,
            Op::Div => Word::Div,
            Op::Max => Word::Max,
            Op::Min => Word::Min,
            Op::And => Word::And,
            Op::Or => Word::Or,
            Op::Shl => Word::Shl,
            _ => Word::Shr,
        };
        return kernel::words(word, a, b);
    }
    match step.op {
        Op::Add => a.add(b),
        Op::Sub => a.sub(b),
        Op::Mul => a.mul(b),
        Op::Div => step.narrow(0, &step.wide(0)?.div(&step.wide(1)?)?),
        Op::Max => or_nan(a, b, &a.maximum(b)?),
        _ => or_nan(a, b, &a.minimum(b)?),
    }
}

/// The operand that is a NaN, else what was computed.
fn or_nan(a: &Tensor, b: &Tensor, result: &Tensor) -> Result<Tensor> {
    a.ne(a)?.where_cond(a, &b.ne(b)?.where_cond(b, result)?)
}

pub fn compare(step: &Step) -> Result<Tensor> {
    let (a, b) = (step.operands[0], step.operands[1]);
    match step.attrs.get_word("kind") {
        "eq" => a.eq(b),
        "ne" => a.ne(b),
        "lt" => a.lt(b),
        "le" => a.le(b),
        "gt" => a.gt(b),
        _ => a.ge(b),
    }
}

pub fn select(step: &Step) -> Result<Tensor> {
    step.operands[0].where_cond(step.operands[1], step.operands[2])
}

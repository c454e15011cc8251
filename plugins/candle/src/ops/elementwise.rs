//! Ops on one element of each operand.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::{DType, Op};

use super::{Step, candle_type};
use crate::host;
use crate::kernel;
use crate::kernel::elementwise::{Code, From, Operand, Steps, run as run_steps, run_into};

pub fn run(step: &Step) -> Result<Tensor> {
    if step.is_cpu() {
        return on_processor(step);
    }
    let mut steps = Steps::default();
    push(step.op, step, &mut steps);
    let operands: Vec<Operand> = step.operands.iter().map(|x| Operand::Tensor(x)).collect();
    let result = step.over(0, &(0..operands.len()).collect::<Vec<_>>())?;
    run_into(&steps, &operands, &result)?;
    Ok(result)
}

/// The op as steps on operands of the same numbers.
fn push(op: Op, step: &Step, steps: &mut Steps) {
    let (a, b) = (From::Operand(0), From::Operand(1));
    let is_word = matches!(step.types[0].dtype, DType::U32 | DType::Bool);
    match op {
        Op::Cast => steps.push(cast_code(step.types[0].dtype, step.results[0].dtype), a, From::Nothing),
        Op::Compare => steps.push(compare_code(step.attrs.get_word("kind"), is_word), a, b),
        Op::Select => {
            steps.push(Code::Take, a, From::Nothing);
            steps.push(Code::Select, b, From::Operand(2));
        }
        _ if step.operands.len() == 1 => steps.push(unary_code(op), a, From::Nothing),
        _ => steps.push(binary_code(op, is_word), a, b),
    }
}

fn cast_code(from: DType, to: DType) -> Code {
    let is_word = matches!(from, DType::U32 | DType::Bool);
    match to {
        DType::Bool if is_word => Code::WordIsSet,
        DType::Bool => Code::FloatIsSet,
        DType::U32 if is_word => Code::Take,
        DType::U32 => Code::FloatToWord,
        DType::F16 | DType::Bf16 if is_word => Code::WordToFloat16,
        _ if is_word => Code::WordToFloat,
        // Rounded as it is written.
        _ => Code::Take,
    }
}

fn unary_code(op: Op) -> Code {
    match op {
        Op::Neg => Code::Neg,
        Op::Abs => Code::Abs,
        Op::Exp => Code::Exp,
        Op::Log => Code::Log,
        Op::Sqrt => Code::Sqrt,
        Op::Rsqrt => Code::Rsqrt,
        Op::Sin => Code::Sin,
        Op::Cos => Code::Cos,
        Op::Tanh => Code::Tanh,
        Op::Erf => Code::Erf,
        _ => Code::Not,
    }
}

fn binary_code(op: Op, is_word: bool) -> Code {
    match (op, is_word) {
        (Op::Add, false) => Code::Add,
        (Op::Sub, false) => Code::Sub,
        (Op::Mul, false) => Code::Mul,
        (Op::Div, false) => Code::Div,
        (Op::Max, false) => Code::Max,
        (Op::Min, false) => Code::Min,
        (Op::Add, true) => Code::WordAdd,
        (Op::Sub, true) => Code::WordSub,
        (Op::Mul, true) => Code::WordMul,
        (Op::Div, true) => Code::WordDiv,
        (Op::Max, true) => Code::WordMax,
        (Op::Min, true) => Code::WordMin,
        (Op::And, _) => Code::WordAnd,
        (Op::Or, _) => Code::WordOr,
        (Op::Shl, _) => Code::WordShl,
        _ => Code::WordShr,
    }
}

fn compare_code(kind: &str, is_word: bool) -> Code {
    match (kind, is_word) {
        ("eq", false) => Code::Eq,
        ("ne", false) => Code::Ne,
        ("lt", false) => Code::Lt,
        ("le", false) => Code::Le,
        ("gt", false) => Code::Gt,
        (_, false) => Code::Ge,
        ("eq", true) => Code::WordEq,
        ("ne", true) => Code::WordNe,
        ("lt", true) => Code::WordLt,
        ("le", true) => Code::WordLe,
        ("gt", true) => Code::WordGt,
        (_, true) => Code::WordGe,
    }
}

/// Words of one shape; wraps.
pub fn words(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !kernel::on_gpu(a.device()) {
        return host::words::binary(op, a, b);
    }
    let steps = Steps::one(binary_code(op, true), From::Operand(0), From::Operand(1));
    run_steps(a.device(), &steps, &[Operand::Tensor(a), Operand::Tensor(b)], a.dtype(), a.dims())
}

/// The language's type of a tensor.
fn type_of(x: &Tensor) -> DType {
    match x.dtype() {
        CandleType::F32 => DType::F32,
        CandleType::F16 => DType::F16,
        CandleType::BF16 => DType::Bf16,
        CandleType::U32 => DType::U32,
        _ => DType::Bool,
    }
}

/// Candle rounds once between float types; the rest is the language's.
pub fn cast(x: &Tensor, to: DType) -> Result<Tensor> {
    let target = candle_type(to);
    if x.dtype() == target {
        return Ok(x.clone());
    }
    if kernel::on_gpu(x.device()) {
        let steps = Steps::one(cast_code(type_of(x), to), From::Operand(0), From::Nothing);
        return run_steps(x.device(), &steps, &[Operand::Tensor(x)], target, x.dims());
    }
    match (x.dtype(), to) {
        (_, DType::Bool) => x.ne(&x.zeros_like()?),
        (CandleType::U32, DType::F16 | DType::Bf16) => host::words::to_floats(x, target),
        (CandleType::F32 | CandleType::F16 | CandleType::BF16, DType::U32) => {
            x.to_dtype(CandleType::F32)?.to_dtype(CandleType::U32)
        }
        _ => x.to_dtype(target),
    }
}

fn on_processor(step: &Step) -> Result<Tensor> {
    match step.op {
        Op::Cast => cast(step.operands[0], step.results[0].dtype),
        Op::Compare => compare(step),
        Op::Select => step.operands[0].where_cond(step.operands[1], step.operands[2]),
        _ if step.operands.len() == 1 => unary(step),
        _ => binary(step),
    }
}

fn unary(step: &Step) -> Result<Tensor> {
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

fn binary(step: &Step) -> Result<Tensor> {
    let (a, b) = (step.operands[0], step.operands[1]);
    if matches!(step.types[0].dtype, DType::U32 | DType::Bool) {
        return words(step.op, a, b);
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

fn compare(step: &Step) -> Result<Tensor> {
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

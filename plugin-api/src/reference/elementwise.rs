//! Elementwise ops.

use super::call::Call;
use super::special::erf;
use super::tensor::Values;
use crate::program::{DType, Op};

fn map(x: &[f64], f: impl Fn(f64) -> f64) -> Vec<Values> {
    vec![Values::Float(x.iter().map(|&x| f(x)).collect())]
}

pub(super) fn unary(op: Op, call: &Call<'_>) -> Vec<Values> {
    let x = call.floats(0);
    match op {
        Op::Neg => map(x, |x| -x),
        Op::Abs => map(x, f64::abs),
        Op::Exp => map(x, f64::exp),
        Op::Log => map(x, f64::ln),
        Op::Sqrt => map(x, f64::sqrt),
        Op::Rsqrt => map(x, |x| 1.0 / x.sqrt()),
        Op::Sin => map(x, f64::sin),
        Op::Cos => map(x, f64::cos),
        Op::Tanh => map(x, f64::tanh),
        Op::Erf => map(x, erf),
        _ => unreachable!("{} is no unary op", op.name()),
    }
}

pub(super) fn not(call: &Call<'_>) -> Vec<Values> {
    vec![Values::Bool(call.operands[0].bools().iter().map(|x| !x).collect())]
}

pub(super) fn cast(call: &Call<'_>) -> Vec<Values> {
    let dtype = call.results[0].dtype;
    vec![match (call.operands[0].values(), dtype) {
        (Values::Float(x), DType::U32) => Values::U32(x.iter().map(|&x| x as u32).collect()),
        (Values::Float(x), DType::Bool) => Values::Bool(x.iter().map(|&x| x != 0.0).collect()),
        (Values::U32(x), DType::Bool) => Values::Bool(x.iter().map(|&x| x != 0).collect()),
        (Values::Bool(x), DType::U32) => Values::U32(x.iter().map(|&x| u32::from(x)).collect()),
        (Values::U32(x), to) if to.is_float() => Values::Float(x.iter().map(|&x| f64::from(x)).collect()),
        (Values::Bool(x), to) if to.is_float() => Values::Float(x.iter().map(|&x| f64::from(x)).collect()),
        (same, _) => same.clone(),
    }]
}

/// `max` or `min` for which a NaN wins.
pub(super) fn extreme(a: f64, b: f64, take_a: bool) -> f64 {
    if a.is_nan() || (take_a && !b.is_nan()) { a } else { b }
}

fn float_binary(op: Op, a: f64, b: f64) -> f64 {
    match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div => a / b,
        Op::Max => extreme(a, b, a > b),
        Op::Min => extreme(a, b, a < b),
        _ => unreachable!("{} is not for floats", op.name()),
    }
}

/// An op of two whole numbers, as the language has it: it wraps; a divisor of 0 gives 0, as does a shift by 32 or more.
///
/// # Panics
/// `op` is none of those that take two whole numbers and give one.
pub fn u32_binary(op: Op, a: u32, b: u32) -> u32 {
    match op {
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::Div => a.checked_div(b).unwrap_or(0),
        Op::Max => a.max(b),
        Op::Min => a.min(b),
        Op::And => a & b,
        Op::Or => a | b,
        Op::Shl => a.checked_shl(b).unwrap_or(0),
        Op::Shr => a.checked_shr(b).unwrap_or(0),
        _ => unreachable!("{} is not for u32", op.name()),
    }
}

fn zip<A: Copy, R>(a: &[A], b: &[A], f: impl Fn(A, A) -> R) -> Vec<R> {
    a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
}

pub(super) fn binary(op: Op, call: &Call<'_>) -> Vec<Values> {
    vec![match (call.operands[0].values(), call.operands[1].values()) {
        (Values::Float(a), Values::Float(b)) => Values::Float(zip(a, b, |a, b| float_binary(op, a, b))),
        (Values::U32(a), Values::U32(b)) => Values::U32(zip(a, b, |a, b| u32_binary(op, a, b))),
        (Values::Bool(a), Values::Bool(b)) => {
            Values::Bool(zip(a, b, |a, b| if op == Op::And { a && b } else { a || b }))
        }
        _ => unreachable!("{} of operands of two types", op.name()),
    }]
}

fn compare_all<T: PartialOrd + Copy>(kind: &str, a: &[T], b: &[T]) -> Vec<bool> {
    match kind {
        "eq" => zip(a, b, |a, b| a == b),
        "ne" => zip(a, b, |a, b| a != b),
        "lt" => zip(a, b, |a, b| a < b),
        "le" => zip(a, b, |a, b| a <= b),
        "gt" => zip(a, b, |a, b| a > b),
        _ => zip(a, b, |a, b| a >= b),
    }
}

pub(super) fn compare(call: &Call<'_>) -> Vec<Values> {
    let kind = call.attrs.get_word("kind");
    vec![Values::Bool(match (call.operands[0].values(), call.operands[1].values()) {
        (Values::Float(a), Values::Float(b)) => compare_all(kind, a, b),
        (Values::U32(a), Values::U32(b)) => compare_all(kind, a, b),
        (Values::Bool(a), Values::Bool(b)) => compare_all(kind, a, b),
        _ => unreachable!("compare of operands of two types"),
    })]
}

pub(super) fn select(call: &Call<'_>) -> Vec<Values> {
    let cond = call.operands[0].bools();
    let mut values = call.operands[2].values().clone();
    let chosen: Vec<usize> = (0..cond.len()).filter(|&i| cond[i]).collect();
    values.put(&chosen, &call.operands[1].values().at(&chosen));
    vec![values]
}

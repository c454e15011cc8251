//! How far a plugin's result may lie from the exact one.
//!
//! A first-order running error analysis (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 3): a
//! second pass over the program, lowered to core ops, carries with every float a bound of the error that
//! arithmetic in f32 may have brought, and what each op makes of the errors of its operands.
//!
//! - An op that only moves elements moves their errors.
//! - A sum of n numbers or products, in any order, errs by at most n u / (1 - n u) times the sum of their
//!   magnitudes, u = 2^-24 being the unit roundoff of f32.
//! - A single arithmetic op errs by as many u of its result as OpenCL C's table of maximum errors in the full
//!   profile gives it (1 ulp is at most 2 u): add, sub, mul 1; div 5; exp, log, sqrt 6; rsqrt 4; tanh 10; erf
//!   32; sin and cos 8, here of 1 and not of the result, so that argument reduction is not held against them.
//! - A result in f16 or bf16 is rounded once more, with that type's u. Below the smallest normal number of f32
//!   and bf16 a result may be flushed to zero; f16 keeps its subnormal numbers.
//! - Infinities and NaN are exact: a plugin gives the same.
//!
//! The bound is doubled at the end: an implementation may follow another formula with as many roundings again
//! (exp through exp2, a softmax rescaled block by block). Nothing in it is measured on any implementation.

use crate::program::{DType, Node, Op, Program, ProgramError, TensorType, lower};
use crate::reference::{Call, Tensor, Values, evaluate, round};

const F32_ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// A value and, for floats, the bounds of its elements' errors in the same shape.
struct Bounded {
    value: Tensor,
    error: Tensor,
}

/// For every output, then every state argument: what each element may be off by. Comparisons and
/// conversions to whole numbers are taken to come out as in exact arithmetic; cases see to that.
pub(super) fn allowed(program: &Program, args: &[Tensor]) -> Result<Vec<Vec<f64>>, ProgramError> {
    let core = lower(program, &|_| false)?;
    let mut values: Vec<Bounded> = args.iter().map(|arg| exact(arg.clone())).collect();
    for node in core.nodes() {
        let operands: Vec<&Bounded> = node.operands.iter().map(|operand| &values[operand.index()]).collect();
        let result = step(node, &operands, core.ty(node.results[0]));
        values.push(result);
    }
    let ends = core.outputs().iter().map(|output| output.value);
    let states = core.args().iter().filter(|arg| arg.role == crate::program::Role::State).map(|arg| {
        let update = core.updates().iter().find(|update| update.state == arg.value);
        update.map_or(arg.value, |update| update.value)
    });
    Ok(ends.chain(states).map(|value| doubled(&values[value.index()])).collect())
}

fn doubled(value: &Bounded) -> Vec<f64> {
    match value.error.values() {
        Values::Float(errors) => errors.iter().map(|error| 2.0 * error).collect(),
        _ => vec![0.0; value.value.ty().elements()],
    }
}

fn exact(value: Tensor) -> Bounded {
    let error = match value.values() {
        Values::Float(values) => with(&value, vec![0.0; values.len()]),
        _ => value.clone(),
    };
    Bounded { value, error }
}

fn with(like: &Tensor, values: Vec<f64>) -> Tensor {
    Tensor::of_result(like.ty(), Values::Float(values))
}

fn apply(node: &Node, operands: &[&Tensor], ty: &TensorType) -> Tensor {
    let call = Call { attrs: &node.attrs, operands: operands.to_vec(), results: vec![ty] };
    evaluate(node.op, &call).remove(0)
}

/// One op: its value and what the errors of its operands and its own arithmetic add up to.
fn step(node: &Node, operands: &[&Bounded], ty: &TensorType) -> Bounded {
    let exact_operands: Vec<&Tensor> = operands.iter().map(|operand| &operand.value).collect();
    let value = apply(node, &exact_operands, ty);
    if !ty.dtype.is_float() {
        return exact(value);
    }
    let (mut errors, computes) = match node.op {
        Op::Constant => (value.floats().iter().map(|&x| (x - round(x, ty.dtype)).abs()).collect(), false),
        Op::Iota => (vec![0.0; ty.elements()], false),
        Op::Cast => cast(operands[0], &value),
        Op::Neg | Op::Abs => (operands[0].error.floats().to_vec(), false),
        Op::Max | Op::Min | Op::ReduceMax => (extreme(node, operands, &value), false),
        Op::Matmul | Op::ScatterAdd | Op::ReduceSum => (sum(node, operands, ty), true),
        Op::Add | Op::Sub | Op::Mul | Op::Div => (binary(node.op, operands, &value), true),
        Op::Exp | Op::Log | Op::Sqrt | Op::Rsqrt | Op::Sin | Op::Cos | Op::Tanh | Op::Erf => {
            (unary(node, operands[0], &value), true)
        }
        _ => (moved(node, operands, ty), false),
    };
    for (error, value) in errors.iter_mut().zip(value.floats()) {
        if computes {
            *error += rounding(*value, *error, ty.dtype);
        }
        if !value.is_finite() {
            *error = 0.0;
        } else if error.is_nan() {
            *error = f64::INFINITY;
        }
    }
    Bounded { error: with(&value, errors), value }
}

/// What storing a computed value in its type may add. For f32 the arithmetic's own bound has it already.
fn rounding(value: f64, error: f64, dtype: DType) -> f64 {
    let size = value.abs() + error;
    match dtype {
        DType::F16 => 2f64.powi(-11) * size + 2f64.powi(-25),
        DType::Bf16 => 2f64.powi(-8) * size + 2f64.powi(-126),
        _ => 2f64.powi(-126),
    }
}

fn cast(x: &Bounded, value: &Tensor) -> (Vec<f64>, bool) {
    let size = |ty: &TensorType| if ty.dtype.is_float() { ty.dtype.size() } else { 8 };
    let narrows = size(value.ty()) < size(x.value.ty()) || value.ty().dtype != x.value.ty().dtype;
    let mut errors = match x.error.values() {
        Values::Float(errors) => errors.clone(),
        _ => vec![0.0; value.ty().elements()],
    };
    if narrows && value.ty().dtype == DType::F32 {
        // From f16, bf16 and bool nothing is lost, from u32 at most a rounding.
        let from_u32 = x.value.ty().dtype == DType::U32;
        let unit = if from_u32 { F32_ROUNDOFF } else { 0.0 };
        errors.iter_mut().zip(value.floats()).for_each(|(error, value)| *error += unit * value.abs());
    }
    (errors, narrows)
}

/// The same op on the errors: select, gather, permute and so on move them with their elements.
fn moved(node: &Node, operands: &[&Bounded], ty: &TensorType) -> Vec<f64> {
    let errors: Vec<&Tensor> = operands.iter().map(|operand| &operand.error).collect();
    let mut moves = node.clone();
    if node.op == Op::Pad {
        let (low, high) = (node.attrs.get_ints("low"), node.attrs.get_ints("high"));
        moves.attrs = crate::program::Attrs::none().ints("low", &low).ints("high", &high).float("value", 0.0);
    }
    apply(&moves, &errors, ty).floats().to_vec()
}

fn shifted(x: &Bounded, by: f64) -> Tensor {
    let moved = x.value.floats().iter().zip(x.error.floats()).map(|(x, error)| x + by * error);
    with(&x.value, moved.collect())
}

/// The ends of the interval in which a largest (smallest) element lies.
fn extreme(node: &Node, operands: &[&Bounded], value: &Tensor) -> Vec<f64> {
    let [high, low] = [1.0, -1.0].map(|by| {
        let ends: Vec<Tensor> = operands.iter().map(|x| shifted(x, by)).collect();
        apply(node, &ends.iter().collect::<Vec<_>>(), value.ty())
    });
    let ends = high.floats().iter().zip(low.floats());
    ends.zip(value.floats()).map(|((high, low), value)| (high - value).max(value - low)).collect()
}

/// Sums of n terms: the op on magnitudes with their errors, n roundings more, less the op on magnitudes.
fn sum(node: &Node, operands: &[&Bounded], ty: &TensorType) -> Vec<f64> {
    let magnitudes = |with_error: f64| {
        let of = |x: &&Bounded| match x.value.values() {
            Values::Float(values) => {
                let errors = x.error.floats();
                with(&x.value, values.iter().zip(errors).map(|(x, e)| x.abs() + with_error * e).collect())
            }
            _ => x.value.clone(),
        };
        let operands: Vec<Tensor> = operands.iter().map(of).collect();
        apply(node, &operands.iter().collect::<Vec<_>>(), ty)
    };
    let (x, inputs) = (&operands[0].value.ty().shape, operands[0].value.ty().elements());
    let terms = match node.op {
        Op::Matmul if node.attrs.get_bool("transpose_a") => x[x.len() - 2],
        Op::Matmul => x[x.len() - 1],
        Op::ScatterAdd => operands[1].value.ty().elements() + 1,
        _ => inputs / ty.elements(),
    };
    let roundings = terms as f64 * F32_ROUNDOFF;
    let gamma = roundings / (1.0 - roundings);
    let (upper, lower) = (magnitudes(1.0), magnitudes(0.0));
    upper.floats().iter().zip(lower.floats()).map(|(upper, lower)| upper * (1.0 + gamma) - lower).collect()
}

fn binary(op: Op, operands: &[&Bounded], value: &Tensor) -> Vec<f64> {
    let (a, b) = (operands[0], operands[1]);
    let errors = a.error.floats().iter().zip(b.error.floats());
    let values = a.value.floats().iter().zip(b.value.floats());
    let each = values.zip(errors).zip(value.floats());
    each.map(|(((a, b), (ea, eb)), value)| match op {
        Op::Mul => a.abs() * eb + b.abs() * ea + ea * eb + F32_ROUNDOFF * value.abs(),
        Op::Div if b.abs() > *eb => {
            (ea + value.abs() * eb) / (b.abs() - eb) + 5.0 * F32_ROUNDOFF * value.abs()
        }
        Op::Div => f64::INFINITY,
        _ => ea + eb + F32_ROUNDOFF * value.abs(),
    })
    .collect()
}

fn unary(node: &Node, x: &Bounded, value: &Tensor) -> Vec<f64> {
    let errors = x.error.floats();
    let own = |value: f64| {
        let (units, of) = match node.op {
            Op::Sin | Op::Cos => (8.0, 1.0),
            Op::Rsqrt => (4.0, value.abs()),
            Op::Tanh => (10.0, value.abs()),
            Op::Erf => (32.0, value.abs()),
            _ => (6.0, value.abs()),
        };
        units * F32_ROUNDOFF * of
    };
    if matches!(node.op, Op::Sin | Op::Cos) {
        return errors.iter().map(|error| error + own(0.0)).collect();
    }
    // The others are monotone, so the ends of the operand's interval give the result's.
    let [high, low] = [1.0, -1.0].map(|by| apply(node, &[&shifted(x, by)], value.ty()));
    let ends = high.floats().iter().zip(low.floats()).zip(errors);
    ends.zip(value.floats())
        .map(|(((high, low), error), value)| match *error {
            0.0 => own(*value),
            _ => (high - value).abs().max((value - low).abs()) + own(*value),
        })
        .collect()
}

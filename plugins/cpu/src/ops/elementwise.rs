//! Elementwise ops: blocks of operands are loaded as f32 or u32, computed and stored, whatever their strides
//! and element types are.

use finetune_plugin_api::program::{DType, Op};

use super::{BLOCK, Step, blocks};
use crate::simd::{self, vectorized};
use crate::storage::{Dst, Src};

/// A function of one number. Functions that are `inline(always)` are compiled into the loop.
trait Unary: Fn(f32) -> f32 + Sync {}
impl<F: Fn(f32) -> f32 + Sync> Unary for F {}
trait Binary: Fn(f32, f32) -> f32 + Sync {}
impl<F: Fn(f32, f32) -> f32 + Sync> Binary for F {}
trait BinaryU32: Fn(u32, u32) -> u32 + Sync {}
impl<F: Fn(u32, u32) -> u32 + Sync> BinaryU32 for F {}

vectorized! {
    fn map_block[F: Unary](y: &mut [f32], a: &[f32], f: &F) {
        y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a));
    }
}

vectorized! {
    fn zip_block[F: Binary](y: &mut [f32], a: &[f32], b: &[f32], f: &F) {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
    }
}

vectorized! {
    fn zip_block_u32[F: BinaryU32](y: &mut [u32], a: &[u32], b: &[u32], f: &F) {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
    }
}

vectorized! {
    /// a where c is not 0, else b; into a.
    fn select_block(c: &[u32], a: &mut [f32], b: &[f32]) {
        for ((c, a), b) in c.iter().zip(a).zip(b) {
            *a = if *c != 0 { *a } else { *b };
        }
    }
}

vectorized! {
    fn select_block_u32(c: &[u32], a: &mut [u32], b: &[u32]) {
        for ((c, a), b) in c.iter().zip(a).zip(b) {
            *a = if *c != 0 { *a } else { *b };
        }
    }
}

/// y = f(x) in f32.
fn map(x: &Src, y: &Dst, f: impl Unary) {
    blocks(y.elements(), |start, count| {
        let (mut a, mut out) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (a, out) = (x.borrow(start, &mut a[..count]), &mut out[..count]);
        map_block(out, a, &f);
        y.store(start, out);
    });
}

/// y = f(a, b) in f32.
fn zip(a: &Src, b: &Src, y: &Dst, f: impl Binary) {
    blocks(y.elements(), |start, count| {
        let (mut left, mut right, mut out) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
        let left = a.borrow(start, &mut left[..count]);
        let right = b.borrow(start, &mut right[..count]);
        let out = &mut out[..count];
        zip_block(out, left, right, &f);
        y.store(start, out);
    });
}

/// y = f(a, b) in u32; `bool` as 0 and 1.
fn zip_u32(a: &Src, b: &Src, y: &Dst, f: impl BinaryU32) {
    blocks(y.elements(), |start, count| {
        let (mut left, mut right, mut out) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
        a.load_u32(start, &mut left[..count]);
        b.load_u32(start, &mut right[..count]);
        zip_block_u32(&mut out, &left, &right, &f);
        y.store_u32(start, &out[..count]);
    });
}

fn map_u32(x: &Src, y: &Dst, f: impl Fn(u32) -> u32 + Sync) {
    zip_u32(x, x, y, |a, _| f(a));
}

pub fn unary(step: &mut Step) {
    let (x, Some(y)) = (&step.src[0], step.out()) else { return };
    match step.op {
        Op::Cast => cast(x, y),
        Op::Neg => map(x, y, |x| -x),
        Op::Abs => map(x, y, f32::abs),
        Op::Exp => map(x, y, simd::exp),
        Op::Log => map(x, y, f32::ln),
        Op::Sqrt => map(x, y, f32::sqrt),
        Op::Rsqrt => map(x, y, |x| 1.0 / x.sqrt()),
        Op::Sin => map(x, y, f32::sin),
        Op::Cos => map(x, y, f32::cos),
        Op::Tanh => map(x, y, simd::tanh),
        Op::Erf => map(x, y, simd::erf),
        _ => map_u32(x, y, |x| 1 - x),
    }
}

fn is_integer(x: &Src) -> bool {
    matches!(x.stored, DType::U32 | DType::Bool)
}

fn cast(x: &Src, y: &Dst) {
    let integer = |dtype| matches!(dtype, DType::U32 | DType::Bool);
    match (is_integer(x), y.dtype) {
        (true, to) if integer(to) => map_u32(x, y, |x| x),
        // By way of f64, so that a u32 is rounded once.
        (true, DType::F16 | DType::Bf16) if x.stored == DType::U32 => cast_u32_to_half(x, y),
        _ => map(x, y, |x| x),
    }
}

fn cast_u32_to_half(x: &Src, y: &Dst) {
    let bf16 = y.dtype == DType::Bf16;
    blocks(y.elements(), |start, count| {
        let (mut a, mut out) = ([0; BLOCK], [0u16; BLOCK]);
        x.load_u32(start, &mut a[..count]);
        for (y, &x) in out.iter_mut().zip(&a) {
            let x = f64::from(x);
            *y = if bf16 { half::bf16::from_f64(x).to_bits() } else { half::f16::from_f64(x).to_bits() };
        }
        y.store_raw(start, &out[..count]);
    });
}

pub fn binary(step: &mut Step) {
    let (a, b, Some(y)) = (&step.src[0], &step.src[1], step.out()) else { return };
    if is_integer(a) {
        return match step.op {
            Op::Add => zip_u32(a, b, y, u32::wrapping_add),
            Op::Sub => zip_u32(a, b, y, u32::wrapping_sub),
            Op::Mul => zip_u32(a, b, y, u32::wrapping_mul),
            Op::Div => zip_u32(a, b, y, |a, b| a.checked_div(b).unwrap_or(0)),
            Op::Max => zip_u32(a, b, y, u32::max),
            Op::Min => zip_u32(a, b, y, u32::min),
            Op::And => zip_u32(a, b, y, |a, b| a & b),
            Op::Or => zip_u32(a, b, y, |a, b| a | b),
            Op::Shl => zip_u32(a, b, y, |a, b| a.checked_shl(b).unwrap_or(0)),
            _ => zip_u32(a, b, y, |a, b| a.checked_shr(b).unwrap_or(0)),
        };
    }
    match step.op {
        Op::Add => zip(a, b, y, |a, b| a + b),
        Op::Sub => zip(a, b, y, |a, b| a - b),
        Op::Mul => zip(a, b, y, |a, b| a * b),
        Op::Div => zip(a, b, y, |a, b| a / b),
        Op::Max => zip(a, b, y, simd::max),
        _ => zip(a, b, y, simd::min),
    }
}

pub fn compare(step: &mut Step) {
    let (a, b, Some(y)) = (&step.src[0], &step.src[1], step.out()) else { return };
    macro_rules! by_kind {
        ($zip:ident, $yes:expr, $no:expr) => {
            match step.attrs.get_word("kind") {
                "eq" => $zip(a, b, y, |a, b| if a == b { $yes } else { $no }),
                "ne" => $zip(a, b, y, |a, b| if a != b { $yes } else { $no }),
                "lt" => $zip(a, b, y, |a, b| if a < b { $yes } else { $no }),
                "le" => $zip(a, b, y, |a, b| if a <= b { $yes } else { $no }),
                "gt" => $zip(a, b, y, |a, b| if a > b { $yes } else { $no }),
                _ => $zip(a, b, y, |a, b| if a >= b { $yes } else { $no }),
            }
        };
    }
    if is_integer(a) { by_kind!(zip_u32, 1, 0) } else { by_kind!(zip, 1.0, 0.0) }
}

pub fn select(step: &mut Step) {
    let (cond, a, b) = (&step.src[0], &step.src[1], &step.src[2]);
    let Some(y) = step.out() else { return };
    if is_integer(a) {
        return blocks(y.elements(), |start, count| {
            let (mut c, mut left, mut right) = ([0; BLOCK], [0; BLOCK], [0; BLOCK]);
            cond.load_u32(start, &mut c[..count]);
            a.load_u32(start, &mut left[..count]);
            b.load_u32(start, &mut right[..count]);
            select_block_u32(&c, &mut left, &right);
            y.store_u32(start, &left[..count]);
        });
    }
    blocks(y.elements(), |start, count| {
        let (mut c, mut left, mut right) = ([0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
        cond.load_u32(start, &mut c[..count]);
        a.load(start, &mut left[..count]);
        b.load(start, &mut right[..count]);
        select_block(&c, &mut left, &right);
        y.store(start, &left[..count]);
    });
}

//! Elementwise ops. Rules of several steps compute in f32 and round once at the end, as the ops do.

use std::f64::consts::PI;

use finetune_plugin_api::program::{Builder, DType, ValueId};

use super::one;
use crate::autodiff::Site;

type Gradients = Vec<Option<ValueId>>;

/// dy, the operand and the result in f32.
fn wide(b: &mut Builder, site: &Site<'_>) -> [ValueId; 3] {
    let dy = site.dy(b);
    [dy, site.x(0), site.y()].map(|value| b.cast(value, DType::F32))
}

/// The gradient of operand `i`, rounded to its type.
fn narrow(b: &mut Builder, site: &Site<'_>, i: usize, gradient: ValueId) -> ValueId {
    let dtype = b.dtype(site.x(i));
    b.cast(gradient, dtype)
}

/// A rule dx = dy * slope(x, y) in f32.
fn slope(
    b: &mut Builder,
    site: &Site<'_>,
    slope: impl Fn(&mut Builder, ValueId, ValueId) -> ValueId,
) -> Gradients {
    let [dy, x, y] = wide(b, site);
    let slope = slope(b, x, y);
    let dx = b.mul(dy, slope);
    one(narrow(b, site, 0, dx))
}

pub fn cast(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    one(narrow(b, site, 0, dy))
}

pub fn neg(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    one(b.neg(dy))
}

pub fn abs(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let (dy, x) = (site.dy(b), site.x(0));
    let zero = b.full_like(0.0, x);
    let (above, below) = (b.compare("gt", x, zero), b.compare("lt", x, zero));
    let minus = b.neg(dy);
    let rest = b.select(below, minus, zero);
    one(b.select(above, dy, rest))
}

pub fn exp(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    one(b.mul(dy, site.y()))
}

pub fn log(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    one(b.div(dy, site.x(0)))
}

pub fn sqrt(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let [dy, _, y] = wide(b, site);
    let half = b.scale(dy, 0.5);
    let dx = b.div(half, y);
    one(narrow(b, site, 0, dx))
}

/// -1/2 x^(-3/2) = -1/2 y^3
pub fn rsqrt(b: &mut Builder, site: &Site<'_>) -> Gradients {
    slope(b, site, |b, _, y| {
        let square = b.mul(y, y);
        let cube = b.mul(square, y);
        b.scale(cube, -0.5)
    })
}

pub fn sin(b: &mut Builder, site: &Site<'_>) -> Gradients {
    slope(b, site, |b, x, _| b.cos(x))
}

pub fn cos(b: &mut Builder, site: &Site<'_>) -> Gradients {
    slope(b, site, |b, x, _| {
        let sin = b.sin(x);
        b.neg(sin)
    })
}

/// 1 - y^2
pub fn tanh(b: &mut Builder, site: &Site<'_>) -> Gradients {
    slope(b, site, |b, _, y| {
        let square = b.mul(y, y);
        let minus = b.neg(square);
        b.add_scalar(minus, 1.0)
    })
}

/// 2/sqrt(pi) e^(-x^2)
pub fn erf(b: &mut Builder, site: &Site<'_>) -> Gradients {
    slope(b, site, |b, x, _| {
        let square = b.mul(x, x);
        let exponent = b.neg(square);
        let exp = b.exp(exponent);
        b.scale(exp, 2.0 / PI.sqrt())
    })
}

pub fn add(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    site.needs.iter().map(|&needs| needs.then_some(dy)).collect()
}

pub fn sub(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    vec![site.needs[0].then_some(dy), site.needs[1].then(|| b.neg(dy))]
}

pub fn mul(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    vec![site.needs[0].then(|| b.mul(dy, site.x(1))), site.needs[1].then(|| b.mul(dy, site.x(0)))]
}

/// da = dy / b, db = -dy / b * (a / b)
pub fn div(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let [dy, _, y] = wide(b, site);
    let below = b.cast(site.x(1), DType::F32);
    let quotient = b.div(dy, below);
    let da = site.needs[0].then(|| narrow(b, site, 0, quotient));
    let db = site.needs[1].then(|| {
        let product = b.mul(quotient, y);
        let db = b.neg(product);
        narrow(b, site, 1, db)
    });
    vec![da, db]
}

pub fn max(b: &mut Builder, site: &Site<'_>) -> Gradients {
    extreme(b, site, ["lt", "gt"])
}

pub fn min(b: &mut Builder, site: &Site<'_>) -> Gradients {
    extreme(b, site, ["gt", "lt"])
}

/// All to the operand that was taken, half to each of two equal ones. `loses` says for each operand how a
/// compares to b where that operand was not taken; so where one is NaN, both get dy, as the result is NaN.
fn extreme(b: &mut Builder, site: &Site<'_>, loses: [&'static str; 2]) -> Gradients {
    let dy = site.dy(b);
    let zero = b.full_like(0.0, dy);
    let half = b.scale(dy, 0.5);
    let equal = b.compare("eq", site.x(0), site.x(1));
    let taken = b.select(equal, half, dy);
    let mut gradient = |i: usize| {
        let lost = b.compare(loses[i], site.x(0), site.x(1));
        b.select(lost, zero, taken)
    };
    vec![site.needs[0].then(|| gradient(0)), site.needs[1].then(|| gradient(1))]
}

pub fn select(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let (cond, zero) = (site.x(0), b.full_like(0.0, dy));
    let da = site.needs[1].then(|| b.select(cond, dy, zero));
    let db = site.needs[2].then(|| b.select(cond, zero, dy));
    vec![None, da, db]
}

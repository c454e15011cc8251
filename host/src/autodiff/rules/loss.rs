//! Losses, whose ops give their own gradients as results, and sums of squares.

use finetune_plugin_api::program::{Builder, DType, Op, ValueId};

use super::{needed, one};
use crate::autodiff::Site;
use crate::autodiff::gradient::Gradient;

type Gradients = Vec<Option<ValueId>>;

pub fn cross_entropy(b: &mut Builder, site: &Site<'_>) -> Gradients {
    given(b, site)
}

pub fn linear_cross_entropy(b: &mut Builder, site: &Site<'_>) -> Gradients {
    given(b, site)
}

/// The results behind the first are the gradients of the first operands, for a loss that counts once.
fn given(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let results = &site.node.results[1..];
    let mut gradients = needed(site, results);
    if !counts_once(b, &site.upstream) {
        let dy = site.dy(b);
        for gradient in gradients.iter_mut().flatten() {
            *gradient = times(b, *gradient, dy);
        }
    }
    gradients
}

/// Whether an upstream gradient is the number 1, also where it has been written out.
fn counts_once(b: &Builder, upstream: &Gradient) -> bool {
    let value = match upstream {
        Gradient::One => return true,
        Gradient::Value(value) => value,
        Gradient::Blocks(_) => return false,
    };
    let maker = b.nodes().iter().rev().find(|node| node.results.contains(value));
    maker.is_some_and(|node| node.op == Op::Constant && node.attrs.get_float("value") == 1.0)
}

/// x times a scalar, in f32, rounded once.
fn times(b: &mut Builder, x: ValueId, factor: ValueId) -> ValueId {
    let dtype = b.dtype(x);
    let wide = b.cast(x, DType::F32);
    let product = b.mul_broadcast(wide, factor);
    b.cast(product, dtype)
}

/// 2 x
pub fn sum_squares(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let twice = b.scale(dy, 2.0);
    one(times(b, site.x(0), twice))
}

//! Reductions and ops that move elements.

use finetune_plugin_api::program::{Builder, DType, ValueId};

use super::one;
use crate::autodiff::Site;
use crate::autodiff::gradient::{Block, Gradient};

type Gradients = Vec<Option<ValueId>>;

pub fn reduce_sum(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let shape = b.shape(site.x(0));
    one(b.broadcast(dy, &shape))
}

/// dy divided by the number of equal maxima, at each of them. Counted in f32: a bf16 cannot count beyond 256.
pub fn reduce_max(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let (x, dy) = (site.x(0), site.dy(b));
    let ty = b.ty(x).clone();
    let max = b.broadcast(site.y(), &ty.shape);
    let largest = b.compare("eq", x, max);
    let ones = b.cast(largest, DType::F32);
    let count = b.reduce_sum(ones, &site.node.attrs.get_ints("axes"));
    let dy = b.cast(dy, DType::F32);
    let share = b.div(dy, count);
    let share = b.cast(share, ty.dtype);
    let share = b.broadcast(share, &ty.shape);
    let zero = b.full(0.0, &ty);
    one(b.select(largest, share, zero))
}

pub fn reshape(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let shape = b.shape(site.x(0));
    one(b.reshape(dy, &shape))
}

pub fn permute(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let perm = site.node.attrs.get_ints("perm");
    let mut inverse = vec![0; perm.len()];
    for (to, &from) in perm.iter().enumerate() {
        inverse[from] = to;
    }
    one(b.permute(dy, &inverse))
}

/// The sum over what was repeated.
pub fn broadcast(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let (from, to) = (b.shape(site.x(0)), b.shape(dy));
    let added = to.len() - from.len();
    let repeated = |&dim: &usize| dim < added || from[dim - added] != to[dim];
    let axes: Vec<usize> = (0..to.len()).filter(repeated).collect();
    let sum = if axes.is_empty() { dy } else { b.reduce_sum(dy, &axes) };
    one(b.reshape(sum, &from))
}

/// The block's place is kept; blocks that lie side by side become one concatenation.
pub fn slice(b: &mut Builder, site: &Site<'_>, so_far: Option<Gradient>) -> Gradient {
    let (start, value) = (site.node.attrs.get_ints("start"), site.dy(b));
    Gradient::with_block(b, site.x(0), so_far, Block { start, value })
}

pub fn pad(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let shape = b.shape(site.x(0));
    one(b.slice(dy, &site.node.attrs.get_ints("low"), &shape))
}

pub fn concat(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let dy = site.dy(b);
    let axis = site.node.attrs.get_int("axis");
    let mut start = vec![0; b.ty(dy).rank()];
    let mut gradients = Vec::with_capacity(site.needs.len());
    for (&operand, &needs) in site.node.operands.iter().zip(site.needs) {
        let shape = b.shape(operand);
        gradients.push(needs.then(|| b.slice(dy, &start, &shape)));
        start[axis] += shape[axis];
    }
    gradients
}

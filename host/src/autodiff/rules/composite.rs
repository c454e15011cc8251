//! Composites that have a gradient op, or are their own.

use finetune_plugin_api::program::{AttrValue, Attrs, Builder, DType, Op, ValueId};

use super::{needed, one};
use crate::autodiff::Site;

type Gradients = Vec<Option<ValueId>>;

/// The gradient op applied to all operands and dy, with the same attributes.
fn gradient_op(b: &mut Builder, site: &Site<'_>, op: Op, operands: &[ValueId]) -> Vec<ValueId> {
    let dy = site.dy(b);
    b.push(op, &[operands, &[dy]].concat(), site.node.attrs.clone())
}

pub fn softmax(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let results = gradient_op(b, site, Op::SoftmaxGrad, &[site.y()]);
    needed(site, &results)
}

pub fn rms_norm(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let results = gradient_op(b, site, Op::RmsNormGrad, &site.node.operands);
    needed(site, &results)
}

/// The gradient op gives dbias in weight's type; where bias has another one it is summed here, so that it is
/// rounded only once.
pub fn layer_norm(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let bias_dtype = b.dtype(site.x(2));
    let apart = site.needs[2] && bias_dtype != b.dtype(site.x(1));
    let only_bias = !site.needs[0] && !site.needs[1];
    let dbias = (apart || only_bias).then(|| {
        let dy = site.dy(b);
        let dy = b.cast(dy, DType::F32);
        let sum = b.sum_rows(dy);
        b.cast(sum, bias_dtype)
    });
    if only_bias {
        return vec![None, None, dbias];
    }
    let results = gradient_op(b, site, Op::LayerNormGrad, &site.node.operands[..2]);
    let mut gradients = needed(site, &results);
    if apart {
        gradients[2] = dbias;
    }
    gradients
}

/// Turned back by the same angles. The frequencies have no gradient.
pub fn rope(b: &mut Builder, site: &Site<'_>) -> Gradients {
    if !site.needs[0] {
        return needed(site, &[]);
    }
    let dy = site.dy(b);
    let turned = site.node.attrs.iter().fold(Attrs::none(), |attrs, (name, value)| match (name, value) {
        ("inverse", AttrValue::Bool(inverse)) => attrs.bool(name, !inverse),
        _ => attrs.with(name, value.clone()),
    });
    let dx = b.apply(Op::Rope, &[dy, site.x(1), site.x(2)], turned);
    needed(site, &[dx])
}

pub fn activation(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let results = gradient_op(b, site, Op::ActivationGrad, &site.node.operands);
    needed(site, &results)
}

pub fn gated(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let results = gradient_op(b, site, Op::GatedGrad, &site.node.operands);
    needed(site, &results)
}

/// The same mask again.
pub fn dropout(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let mut operands = site.node.operands.clone();
    operands[0] = site.dy(b);
    let mut gradients = one(b.apply(Op::Dropout, &operands, site.node.attrs.clone()));
    gradients.resize(site.needs.len(), None);
    gradients
}

//! Attention and its log-sum-exp.

use finetune_plugin_api::program::{Attrs, Builder, Node, Op, ValueId};

use super::needed;
use crate::autodiff::{Options, Site};

/// The log-sum-exp of op number `number`, if it is an attention that gives one or may be made to.
pub fn lse(b: &mut Builder, number: usize, node: &Node, options: Options) -> Option<ValueId> {
    match node.op {
        Op::Attention if node.attrs.get_bool("lse") => node.results.get(1).copied(),
        Op::Attention if options.attention_lse => Some(b.switch_on(number, "lse")),
        _ => None,
    }
}

pub fn attention(b: &mut Builder, site: &Site<'_>) -> Vec<Option<ValueId>> {
    let mut operands = site.node.operands.clone();
    operands.push(site.dy(b));
    if let Some(lse) = site.lse {
        operands.extend([site.y(), lse]);
    }
    let given = site.node.attrs.iter().filter(|(name, _)| *name != "lse");
    let attrs = given.fold(Attrs::none(), |attrs, (name, value)| attrs.with(name, value.clone()));
    let results = b.push(Op::AttentionGrad, &operands, attrs.bool("lse", site.lse.is_some()));
    needed(site, &results)
}

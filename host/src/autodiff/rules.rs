//! The rule table: for every op, the gradients of its operands.
//!
//! A rule writes no op for an operand whose gradient is not wanted.
//!
//! Where a function has no derivative, the rules choose as PyTorch does: `abs` has slope 0 at 0; where the
//! operands of `max` or `min` are equal each gets half; equal maxima of `reduce_max` share evenly.

pub(super) mod attention;
mod composite;
mod elementwise;
mod index;
mod loss;
mod matmul;
mod shape;

use finetune_plugin_api::program::{Builder, Node, Op, ValueId};

use super::Site;
use super::gradient::Gradient;

/// How the gradients of an op's operands follow from that of its first result.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// One entry for each operand: the gradient, or `None` where none is wanted or none exists.
    Each(fn(&mut Builder, &Site<'_>) -> Vec<Option<ValueId>>),
    /// The gradient reaches only a part of the first operand, and the others have none: the rule puts it into
    /// what the operand's other uses have given so far, instead of into zeros that are then added to it.
    Into(fn(&mut Builder, &Site<'_>, Option<Gradient>) -> Gradient),
    /// There is none, for this reason.
    None(Reason),
}

use Rule::{Each, Into, None as Without};

type Reason = &'static str;

const NOTHING_FLOWS: Reason = "it reads no float value, so no gradient can reach it";
const INTEGER: Reason = "its result is no float, so no gradient can reach it";
const SECOND_ORDER: Reason = "it is itself part of a gradient, and second derivatives are not supported";
const OPTIMIZER: Reason = "it is an optimizer's update, which is not differentiated";

/// An op's row: its rule, or why there is none.
pub(super) static RULES: &[(Op, Rule)] = &[
    (Op::Constant, Without(NOTHING_FLOWS)),
    (Op::Iota, Without(NOTHING_FLOWS)),
    (Op::RandomBits, Without(NOTHING_FLOWS)),
    (Op::Cast, Each(elementwise::cast)),
    (Op::Neg, Each(elementwise::neg)),
    (Op::Abs, Each(elementwise::abs)),
    (Op::Exp, Each(elementwise::exp)),
    (Op::Log, Each(elementwise::log)),
    (Op::Sqrt, Each(elementwise::sqrt)),
    (Op::Rsqrt, Each(elementwise::rsqrt)),
    (Op::Sin, Each(elementwise::sin)),
    (Op::Cos, Each(elementwise::cos)),
    (Op::Tanh, Each(elementwise::tanh)),
    (Op::Erf, Each(elementwise::erf)),
    (Op::Not, Without(INTEGER)),
    (Op::Add, Each(elementwise::add)),
    (Op::Sub, Each(elementwise::sub)),
    (Op::Mul, Each(elementwise::mul)),
    (Op::Div, Each(elementwise::div)),
    (Op::Max, Each(elementwise::max)),
    (Op::Min, Each(elementwise::min)),
    (Op::And, Without(INTEGER)),
    (Op::Or, Without(INTEGER)),
    (Op::Shl, Without(INTEGER)),
    (Op::Shr, Without(INTEGER)),
    (Op::Compare, Without(INTEGER)),
    (Op::Select, Each(elementwise::select)),
    (Op::ReduceSum, Each(shape::reduce_sum)),
    (Op::ReduceMax, Each(shape::reduce_max)),
    (Op::Reshape, Each(shape::reshape)),
    (Op::Permute, Each(shape::permute)),
    (Op::Broadcast, Each(shape::broadcast)),
    (Op::Slice, Into(shape::slice)),
    (Op::Pad, Each(shape::pad)),
    (Op::Concat, Each(shape::concat)),
    (Op::Matmul, Each(matmul::matmul)),
    (Op::Gather, Into(index::gather)),
    (Op::ScatterAdd, Each(index::scatter_add)),
    (Op::DynamicSlice, Each(index::dynamic_slice)),
    (Op::UpdateSlice, Each(index::update_slice)),
    (Op::Softmax, Each(composite::softmax)),
    (Op::SoftmaxGrad, Without(SECOND_ORDER)),
    (Op::RmsNorm, Each(composite::rms_norm)),
    (Op::RmsNormGrad, Without(SECOND_ORDER)),
    (Op::LayerNorm, Each(composite::layer_norm)),
    (Op::LayerNormGrad, Without(SECOND_ORDER)),
    (Op::Rope, Each(composite::rope)),
    (Op::Attention, Each(attention::attention)),
    (Op::AttentionGrad, Without(SECOND_ORDER)),
    (Op::Activation, Each(composite::activation)),
    (Op::ActivationGrad, Without(SECOND_ORDER)),
    (Op::Gated, Each(composite::gated)),
    (Op::GatedGrad, Without(SECOND_ORDER)),
    (Op::Dropout, Each(composite::dropout)),
    (Op::CrossEntropy, Each(loss::cross_entropy)),
    (Op::LinearCrossEntropy, Each(loss::linear_cross_entropy)),
    (Op::SumSquares, Each(loss::sum_squares)),
    (Op::AdamW, Without(OPTIMIZER)),
    (Op::Dequantize, Each(matmul::dequantize)),
    (Op::QuantizedMatmul, Each(matmul::quantized_matmul)),
];

/// The rule of an op.
pub(super) fn rule(op: Op) -> Rule {
    match RULES.iter().find(|(known, _)| *known == op) {
        Some((_, rule)) => *rule,
        None => Without("the host has no rule for it"),
    }
}

/// Says that a rule gives no gradient for one of the operands.
pub(super) fn no_operand(node: &Node, operand: usize) -> String {
    let slots = node.op.def().operands.unwrap_or_default();
    match slots.get(operand) {
        Some(slot) => format!("its operand {} has no gradient rule", slot.name),
        None => format!("its operand {operand} has no gradient rule"),
    }
}

/// The gradients of the only operand.
fn one(gradient: ValueId) -> Vec<Option<ValueId>> {
    vec![Some(gradient)]
}

/// For each operand whose gradient is wanted, the result of that position.
fn needed(site: &Site<'_>, results: &[ValueId]) -> Vec<Option<ValueId>> {
    site.needs.iter().enumerate().map(|(i, &needs)| results.get(i).copied().filter(|_| needs)).collect()
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::table::TABLE;

    use super::*;

    /// An op that is added to the language gets a rule or a reason here, before a model meets it.
    #[test]
    fn every_op_of_the_table_has_a_rule_or_a_reason() {
        let here: Vec<Op> = RULES.iter().map(|(op, _)| *op).collect();
        let table: Vec<Op> = TABLE.iter().map(|def| def.op).collect();
        assert_eq!(here, table, "the same ops in the same order");
    }
}

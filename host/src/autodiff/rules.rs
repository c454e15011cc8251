//! The rule table: for every op, the gradients of its operands.
//!
//! A rule returns one entry for each operand: the gradient, or `None` where none is wanted or none exists.
//! It writes no op for an operand whose gradient is not wanted.
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

/// The gradients of an op's operands from that of its first result.
pub(super) type Rule = fn(&mut Builder, &Site<'_>) -> Vec<Option<ValueId>>;

/// Why an op has no rule.
type Reason = &'static str;

const NOTHING_FLOWS: Reason = "it reads no float value, so no gradient can reach it";
const INTEGER: Reason = "its result is no float, so no gradient can reach it";
const SECOND_ORDER: Reason = "it is itself part of a gradient, and second derivatives are not supported";
const OPTIMIZER: Reason = "it is an optimizer's update, which is not differentiated";

/// An op's row: its rule, or why there is none.
pub(super) static RULES: &[(Op, Result<Rule, Reason>)] = &[
    (Op::Constant, Err(NOTHING_FLOWS)),
    (Op::Iota, Err(NOTHING_FLOWS)),
    (Op::RandomBits, Err(NOTHING_FLOWS)),
    (Op::Cast, Ok(elementwise::cast)),
    (Op::Neg, Ok(elementwise::neg)),
    (Op::Abs, Ok(elementwise::abs)),
    (Op::Exp, Ok(elementwise::exp)),
    (Op::Log, Ok(elementwise::log)),
    (Op::Sqrt, Ok(elementwise::sqrt)),
    (Op::Rsqrt, Ok(elementwise::rsqrt)),
    (Op::Sin, Ok(elementwise::sin)),
    (Op::Cos, Ok(elementwise::cos)),
    (Op::Tanh, Ok(elementwise::tanh)),
    (Op::Erf, Ok(elementwise::erf)),
    (Op::Not, Err(INTEGER)),
    (Op::Add, Ok(elementwise::add)),
    (Op::Sub, Ok(elementwise::sub)),
    (Op::Mul, Ok(elementwise::mul)),
    (Op::Div, Ok(elementwise::div)),
    (Op::Max, Ok(elementwise::max)),
    (Op::Min, Ok(elementwise::min)),
    (Op::And, Err(INTEGER)),
    (Op::Or, Err(INTEGER)),
    (Op::Shl, Err(INTEGER)),
    (Op::Shr, Err(INTEGER)),
    (Op::Compare, Err(INTEGER)),
    (Op::Select, Ok(elementwise::select)),
    (Op::ReduceSum, Ok(shape::reduce_sum)),
    (Op::ReduceMax, Ok(shape::reduce_max)),
    (Op::Reshape, Ok(shape::reshape)),
    (Op::Permute, Ok(shape::permute)),
    (Op::Broadcast, Ok(shape::broadcast)),
    (Op::Slice, Ok(shape::slice)),
    (Op::Pad, Ok(shape::pad)),
    (Op::Concat, Ok(shape::concat)),
    (Op::Matmul, Ok(matmul::matmul)),
    (Op::Gather, Ok(index::gather)),
    (Op::ScatterAdd, Ok(index::scatter_add)),
    (Op::DynamicSlice, Ok(index::dynamic_slice)),
    (Op::UpdateSlice, Ok(index::update_slice)),
    (Op::Softmax, Ok(composite::softmax)),
    (Op::SoftmaxGrad, Err(SECOND_ORDER)),
    (Op::RmsNorm, Ok(composite::rms_norm)),
    (Op::RmsNormGrad, Err(SECOND_ORDER)),
    (Op::LayerNorm, Ok(composite::layer_norm)),
    (Op::LayerNormGrad, Err(SECOND_ORDER)),
    (Op::Rope, Ok(composite::rope)),
    (Op::Attention, Ok(attention::attention)),
    (Op::AttentionGrad, Err(SECOND_ORDER)),
    (Op::Activation, Ok(composite::activation)),
    (Op::ActivationGrad, Err(SECOND_ORDER)),
    (Op::Gated, Ok(composite::gated)),
    (Op::GatedGrad, Err(SECOND_ORDER)),
    (Op::Dropout, Ok(composite::dropout)),
    (Op::CrossEntropy, Ok(loss::cross_entropy)),
    (Op::LinearCrossEntropy, Ok(loss::linear_cross_entropy)),
    (Op::SumSquares, Ok(loss::sum_squares)),
    (Op::AdamW, Err(OPTIMIZER)),
    (Op::Dequantize, Ok(matmul::dequantize)),
    (Op::QuantizedMatmul, Ok(matmul::quantized_matmul)),
];

/// The rule of an op.
pub(super) fn rule(op: Op) -> Result<Rule, Reason> {
    match RULES.iter().find(|(known, _)| *known == op) {
        Some((_, rule)) => *rule,
        None => Err("the host has no rule for it"),
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

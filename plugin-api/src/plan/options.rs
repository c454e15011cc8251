//! What a back end says about its kernels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::program::{DType, Node, Op, Program};

/// The options come from a plugin: no alignment in them may overflow an offset.
const MAX_ALIGN: usize = 1 << 20;

/// What a back end's kernels can do. A device publishes it as the member `plan` of its properties.
///
/// ```
/// use finetune_plugin_api::plan::PlanOptions;
/// let options: PlanOptions = serde_json::from_str(r#"{"strided_views": true, "in_place": ["add"]}"#).unwrap();
/// assert!(options.strided_views && !options.direct_outputs);
/// ```
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanOptions {
    /// Every kernel takes operands of any strides and start, so that `permute`, `broadcast` and `slice` move
    /// nothing.
    pub strided_views: bool,
    /// Every kernel that takes `f32` operands takes them stored as `f16` or `bf16` too, so that a widening
    /// `cast` moves nothing.
    pub widening_views: bool,
    /// Steps can write into the buffers of outputs.
    pub direct_outputs: bool,
    /// Steps can write into the buffers of state.
    pub direct_state: bool,
    /// Names of ops whose result may lie where one of the operands that [`in_place_pairs`] lists lies.
    pub in_place: Vec<String>,
    /// Alignment of offsets in the arena, in bytes: a power of two up to 2^20, or what is rounded to one; 0 stands
    /// for 64.
    pub align: usize,
    /// Scratch memory that ops need, by name: the sum of the terms.
    pub workspace: BTreeMap<String, Vec<Term>>,
}

/// A part of an op's scratch memory: `bytes` times the product of some of the operands' dimensions.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Term {
    /// The factor.
    pub bytes: usize,
    /// Pairs of an operand and one of its dimensions; a negative dimension counts from the last, -1.
    pub dims: Vec<(usize, isize)>,
    /// At most this many bytes, if not 0.
    pub most: usize,
    /// At least this many bytes.
    pub least: usize,
    /// Only where this operand is stored as `f16` or `bf16`.
    pub half: Option<usize>,
    /// Only where this result is needed.
    pub result: Option<usize>,
}

impl PlanOptions {
    pub(super) fn alignment(&self) -> usize {
        match self.align {
            0 => 64,
            align => align.min(MAX_ALIGN).next_power_of_two(),
        }
    }

    pub(super) fn may_reuse(&self, op: Op) -> bool {
        self.in_place.iter().any(|name| name == op.name())
    }

    /// Bytes of scratch memory for one node; `stored` gives the stored type of an operand and `needed`
    /// whether a result is. A back end that allocates op by op counts them as used while the node runs.
    pub fn node_workspace(
        &self,
        program: &Program,
        node: &Node,
        stored: &dyn Fn(usize) -> DType,
        needed: &dyn Fn(usize) -> bool,
    ) -> usize {
        let Some(terms) = self.workspace.get(node.op.name()) else { return 0 };
        let mut total = 0usize;
        for term in terms {
            let is_half = |operand: usize| {
                operand < node.operands.len() && matches!(stored(operand), DType::F16 | DType::Bf16)
            };
            if term.half.is_some_and(|operand| !is_half(operand)) {
                continue;
            }
            if term.result.is_some_and(|result| result >= node.results.len() || !needed(result)) {
                continue;
            }
            let product = term.dims.iter().fold(term.bytes, |bytes, &(operand, dim)| {
                let shape = node.operands.get(operand).map_or(&[][..], |&value| &program.ty(value).shape);
                let index = if dim < 0 { shape.len().checked_add_signed(dim) } else { Some(dim as usize) };
                bytes.saturating_mul(index.and_then(|index| shape.get(index).copied()).unwrap_or(1))
            });
            let most = if term.most == 0 { usize::MAX } else { term.most };
            total = total.saturating_add(product.min(most).max(term.least));
        }
        total
    }
}

/// Pairs (result, operand) of which the result may lie where the operand lies, for a kernel that reads each
/// element (for ops over rows: each row) of such an operand before it writes that element (row) of the
/// result, and never again. The operand is then whole, contiguous and of the result's type.
pub fn in_place_pairs(op: Op) -> &'static [(usize, usize)] {
    match op {
        Op::Neg | Op::Abs | Op::Exp | Op::Log | Op::Sqrt | Op::Rsqrt | Op::Sin | Op::Cos | Op::Tanh => {
            &[(0, 0)]
        }
        Op::Erf | Op::Not | Op::Cast => &[(0, 0)],
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min | Op::And | Op::Or | Op::Shl | Op::Shr => {
            &[(0, 0), (0, 1)]
        }
        Op::Compare => &[(0, 0), (0, 1)],
        Op::Select => &[(0, 1), (0, 2), (0, 0)],
        Op::Softmax | Op::RmsNorm | Op::LayerNorm | Op::Rope | Op::Activation | Op::Dropout => &[(0, 0)],
        Op::SoftmaxGrad | Op::ActivationGrad => &[(0, 0), (0, 1)],
        Op::RmsNormGrad | Op::LayerNormGrad => &[(0, 0), (0, 2)],
        Op::Gated => &[(0, 0), (0, 1)],
        Op::GatedGrad => &[(0, 0), (1, 1), (1, 2), (0, 2), (0, 1), (1, 0)],
        Op::CrossEntropy => &[(1, 0)],
        Op::ScatterAdd | Op::UpdateSlice => &[(0, 0)],
        Op::AdamW => &[(0, 0), (1, 1), (2, 2), (0, 3)],
        _ => &[],
    }
}

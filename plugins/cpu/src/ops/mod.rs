//! The kernels: one file a family. Each gets a [`Step`] and writes its results.

mod activation;
mod attention;
mod attention_grad;
mod elementwise;
pub mod gemm;
mod index;
mod loss;
mod matmul;
mod movement;
mod norm;
mod optim;
mod quant;
mod random;
mod reduce;
mod rope;
mod softmax;
mod thin;

use std::collections::BTreeMap;
use std::ops::Range;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::{Attrs, Op, rows_and_width};
use rayon::prelude::*;

pub use movement::copy;

use crate::storage::{Dst, Src};

/// One op with its operands and results as they lie in memory.
pub struct Step<'a> {
    pub op: Op,
    pub attrs: &'a Attrs,
    pub src: Vec<Src<'a>>,
    /// `None` where nothing reads the result.
    pub dst: Vec<Option<Dst<'a>>>,
    /// Scratch memory, at least what [`workspace`] says.
    pub work: &'a mut [f32],
}

impl Step<'_> {
    /// The only result of an op that has one.
    pub fn out(&self) -> Option<&Dst<'_>> {
        self.dst.first()?.as_ref()
    }
}

/// Composite ops that have kernels here, and their optional results.
pub const NATIVE: &[&str] = &[
    "softmax",
    "softmax_grad",
    "rms_norm",
    "rms_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "rope",
    "attention",
    "attention.lse",
    "attention_grad",
    "activation",
    "activation_grad",
    "gated",
    "gated_grad",
    "dropout",
    "cross_entropy",
    "linear_cross_entropy",
    "sum_squares",
    "adamw",
    "dequantize",
    "quantized_matmul",
];

/// Ops whose kernels keep the contract of [`finetune_plugin_api::plan::in_place_pairs`].
pub const IN_PLACE: &[&str] = &[
    "neg",
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "erf",
    "not",
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "and",
    "or",
    "shl",
    "shr",
    "compare",
    "select",
    "softmax",
    "softmax_grad",
    "rms_norm",
    "rms_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "rope",
    "activation",
    "activation_grad",
    "gated",
    "gated_grad",
    "dropout",
    "cross_entropy",
    "scatter_add",
    "update_slice",
    "adamw",
];

/// Scratch memory by op, for so many threads.
pub fn workspace(threads: usize) -> BTreeMap<String, Vec<Term>> {
    let mut terms = BTreeMap::new();
    let mut add = |op: &str, list: Vec<Term>| terms.insert(op.to_string(), list);
    add("matmul", gemm::workspace(0, 1));
    add("quantized_matmul", quant::workspace());
    add("linear_cross_entropy", loss::workspace());
    add("rms_norm_grad", norm::workspace(1));
    add("layer_norm_grad", norm::workspace(2));
    add("attention", attention::workspace(threads));
    add("attention_grad", attention_grad::workspace(threads));
    terms
}

/// Executes one step.
pub fn execute(step: &mut Step) -> Result<(), Error> {
    match step.op {
        Op::Constant | Op::Iota | Op::Reshape | Op::Permute | Op::Broadcast | Op::Slice => {
            movement::run(step)
        }
        Op::Pad | Op::Concat | Op::DynamicSlice | Op::UpdateSlice => movement::run(step),
        Op::RandomBits | Op::Dropout => random::run(step),
        Op::Cast | Op::Neg | Op::Abs | Op::Exp | Op::Log | Op::Sqrt | Op::Rsqrt | Op::Sin | Op::Cos => {
            elementwise::unary(step);
        }
        Op::Tanh | Op::Erf | Op::Not => elementwise::unary(step),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min | Op::And | Op::Or | Op::Shl | Op::Shr => {
            elementwise::binary(step);
        }
        Op::Compare => elementwise::compare(step),
        Op::Select => elementwise::select(step),
        Op::ReduceSum | Op::ReduceMax => reduce::run(step),
        Op::Matmul => matmul::run(step),
        Op::Gather => index::gather(step),
        Op::ScatterAdd => index::scatter_add(step),
        Op::Softmax => softmax::forward(step),
        Op::SoftmaxGrad => softmax::grad(step),
        Op::RmsNorm | Op::LayerNorm => norm::forward(step),
        Op::RmsNormGrad | Op::LayerNormGrad => norm::grad(step),
        Op::Rope => rope::run(step),
        Op::Attention => attention::run(step),
        Op::AttentionGrad => attention_grad::run(step),
        Op::Activation | Op::ActivationGrad => activation::plain(step),
        Op::Gated | Op::GatedGrad => activation::gated(step),
        Op::CrossEntropy => loss::cross_entropy(step),
        Op::LinearCrossEntropy => loss::linear_cross_entropy(step),
        Op::SumSquares => optim::sum_squares(step),
        Op::AdamW => optim::adamw(step),
        Op::Dequantize => quant::dequantize(step),
        Op::QuantizedMatmul => quant::matmul(step),
        // The enum may grow; the host gives only ops that this plugin says it has.
        other => return Err(Error::unsupported(format!("the cpu plugin has no op {}", other.name()))),
    }
    Ok(())
}

/// Elements that one task is worth.
const GRAIN: usize = 16 * 1024;
/// Elements that are computed at a time, in the innermost cache.
const BLOCK: usize = 1024;

/// Calls `f` for the pieces of `0..total`, each `grain` long, in parallel. What a piece is does not depend on
/// the number of threads, so neither do results.
fn parallel(total: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
    let grain = grain.max(1);
    let pieces = total.div_ceil(grain);
    let piece = |i: usize| f(i * grain..((i + 1) * grain).min(total));
    if pieces <= 1 {
        (0..pieces).for_each(piece);
    } else {
        (0..pieces).into_par_iter().for_each(piece);
    }
}

/// Calls `f` for blocks of `0..total`: start and length, at most [`BLOCK`].
fn blocks(total: usize, f: impl Fn(usize, usize) + Sync) {
    parallel(total, GRAIN, |range| {
        for start in range.clone().step_by(BLOCK) {
            f(start, BLOCK.min(range.end - start));
        }
    });
}

/// How many rows of that width make a task.
fn row_grain(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

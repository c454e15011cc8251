//! What every op is in candle's: one file a family. Each gets a [`Step`] and gives its results.
//!
//! On the processor an op is candle's, or a function of `host`. On a GPU it is a kernel of `kernel` or a product; what
//! is there neither (`native`) the host has written in simpler ops.

mod activation;
mod attention;
mod elementwise;
mod flash;
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
pub mod workspace;

use candle_core::{DType as CandleType, Device as Placed, Tensor};
use finetune_plugin_api::program::{AttentionShape, Attrs, DType, Op, TensorType};

use crate::kernel;

pub use random::kept;

/// One op with its operands.
pub struct Step<'a> {
    pub placed: &'a Placed,
    pub op: Op,
    pub attrs: &'a Attrs,
    pub operands: Vec<&'a Tensor>,
    pub types: Vec<&'a TensorType>,
    pub results: Vec<&'a TensorType>,
    /// Of each result, whether anything reads it.
    pub needed: Vec<bool>,
    /// Of each operand, whether its memory may be written: nothing else lies in it or reads it after this op.
    pub free: Vec<bool>,
}

/// Why an op gave nothing.
pub enum Failure {
    Candle(candle_core::Error),
    Unsupported(String),
}

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Failure {
        Failure::Candle(error)
    }
}

/// The results; `None` for those that are not needed.
pub type Results = Result<Vec<Option<Tensor>>, Failure>;

/// Composite ops that are done here, on that device.
pub fn native(_: &Placed) -> Vec<&'static str> {
    vec![
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
    ]
}

/// Runs one op.
pub fn execute(step: &Step) -> Results {
    let one = |result: candle_core::Result<Tensor>| Ok(vec![Some(result?)]);
    let some = |results: candle_core::Result<Vec<Option<Tensor>>>| Ok(results?);
    match step.op {
        Op::Constant
        | Op::Iota
        | Op::Reshape
        | Op::Permute
        | Op::Broadcast
        | Op::Slice
        | Op::Pad
        | Op::Concat => one(movement::run(step)),
        Op::RandomBits => one(random::bits(step)),
        Op::Dropout => one(random::dropout(step)),
        Op::Cast
        | Op::Neg
        | Op::Abs
        | Op::Exp
        | Op::Log
        | Op::Sqrt
        | Op::Rsqrt
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf
        | Op::Not => one(elementwise::run(step)),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min | Op::And | Op::Or | Op::Shl | Op::Shr => {
            one(elementwise::run(step))
        }
        Op::Compare | Op::Select => one(elementwise::run(step)),
        Op::ReduceSum | Op::ReduceMax => one(reduce::run(step)),
        Op::Matmul => one(matmul::run(step)),
        Op::Gather => one(index::gather(step)),
        Op::ScatterAdd => one(index::scatter_add(step)),
        Op::DynamicSlice => one(index::dynamic_slice(step)),
        Op::UpdateSlice => one(index::update_slice(step)),
        Op::Softmax => one(softmax::forward(step)),
        Op::SoftmaxGrad => one(softmax::grad(step)),
        Op::RmsNorm | Op::LayerNorm => one(norm::forward(step)),
        Op::RmsNormGrad | Op::LayerNormGrad => some(norm::grad(step)),
        Op::Rope => one(rope::run(step)),
        Op::Attention => some(attention::forward(step)),
        Op::AttentionGrad => some(attention::grad(step)),
        Op::Activation | Op::ActivationGrad | Op::Gated => one(activation::run(step)),
        Op::GatedGrad => some(activation::gated_grad(step)),
        Op::CrossEntropy => some(loss::cross_entropy(step)),
        Op::LinearCrossEntropy => some(loss::linear_cross_entropy(step)),
        Op::SumSquares => one(optim::sum_squares(step)),
        Op::AdamW => some(optim::adamw(step)),
        Op::Dequantize => one(quant::dequantize(step)),
        Op::QuantizedMatmul => one(quant::matmul(step)),
        // The enum may grow; the host gives only ops that this plugin says it has.
        other => Err(Failure::Unsupported(format!("the candle plugin has no op {}", other.name()))),
    }
}

/// On a GPU: c + a b for the operands a, b, c and a product's attributes.
pub fn add_product(step: &Step) -> Results {
    Ok(vec![Some(matmul::add_product(step)?)])
}

/// Candle's type for one of the language's, all of which it has (`compile` saw to that).
pub fn candle_type(dtype: DType) -> CandleType {
    crate::device::candle_type(dtype).unwrap_or(CandleType::U8)
}

/// Whether two tensors lie in the same memory.
pub fn share_memory(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.storage_and_layout().0, b.storage_and_layout().0);
    std::ptr::eq(&raw const *a, &raw const *b)
}

/// A copy in memory of its own, contiguous.
pub fn copied(x: &Tensor) -> candle_core::Result<Tensor> {
    if !kernel::on_gpu(x.device()) {
        return x.force_contiguous();
    }
    kernel::elementwise::copied(x)
}

/// The tensor itself if its elements lie one after another, else a copy in which they do.
pub fn flat(x: &Tensor) -> candle_core::Result<Tensor> {
    if x.is_contiguous() { Ok(x.clone()) } else { copied(x) }
}

impl Step<'_> {
    fn is_cpu(&self) -> bool {
        !kernel::on_gpu(self.placed)
    }

    /// The shape of attention or its gradient.
    pub fn attention(&self) -> AttentionShape {
        let [q, k, v] = [0, 1, 2].map(|operand| &self.types[operand].shape[..]);
        AttentionShape::new(q, k, v, self.attrs)
    }

    /// An operand as f32.
    fn wide(&self, operand: usize) -> candle_core::Result<Tensor> {
        elementwise::cast(self.operands[operand], DType::F32)
    }

    /// An operand, its elements one after another.
    fn flat(&self, operand: usize) -> candle_core::Result<Tensor> {
        flat(self.operands[operand])
    }

    /// A computed result in the type that it is to have.
    fn narrow(&self, result: usize, value: &Tensor) -> candle_core::Result<Tensor> {
        elementwise::cast(value, self.results[result].dtype)
    }

    /// On a GPU: memory for a result.
    fn empty(&self, result: usize) -> candle_core::Result<Tensor> {
        let ty = self.results[result];
        kernel::empty(&ty.shape, candle_type(ty.dtype), self.placed)
    }

    /// On a GPU: memory for a result that may lie where one of these operands lies, if that is free.
    fn over(&self, result: usize, operands: &[usize]) -> candle_core::Result<Tensor> {
        let ty = self.results[result];
        let fits = |&&operand: &&usize| self.free[operand] && self.types[operand] == ty;
        match operands.iter().find(fits) {
            Some(&operand) => Ok(self.operands[operand].clone()),
            None => self.empty(result),
        }
    }

    /// A tensor with an operand's elements that may be written: the operand itself if it is free, else a copy.
    pub fn written(&self, operand: usize) -> candle_core::Result<Tensor> {
        let x = self.operands[operand];
        if self.free[operand] { Ok(x.clone()) } else { copied(x) }
    }
}

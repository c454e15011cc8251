//! Arguments for every op: the sizes, attributes and element types that a plugin must get right.

mod attention;
mod composite;
mod core;

use super::random::{Random, tensor};
use crate::program::{Attrs, DType, Op, TensorType};
use crate::reference::{Tensor, Values};

/// One way of applying an op.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What is special about it, with shapes and element types.
    pub label: String,
    /// The operands; their types fit the op.
    pub operands: Vec<Tensor>,
    /// The attributes.
    pub attrs: Attrs,
}

impl Variant {
    fn new(label: impl Into<String>, operands: Vec<Tensor>, attrs: Attrs) -> Variant {
        let types: Vec<_> = operands.iter().map(|operand| operand.ty().to_string()).collect();
        let shown: Vec<_> = attrs.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let label = format!("{}({}) {{{}}}", label.into(), types.join(", "), shown.join(", "));
        Variant { label, operands, attrs }
    }

    /// The types of the operands.
    pub fn types(&self) -> Vec<TensorType> {
        self.operands.iter().map(|operand| operand.ty().clone()).collect()
    }
}

const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// The ways in which an op is tried, the same in every call. At least one for every op.
pub fn variants(op: Op) -> Vec<Variant> {
    let rng = &mut Random::new(0x5EED ^ (op as u64) << 32);
    match op {
        Op::Constant => core::constant(),
        Op::Iota => core::iota(),
        Op::RandomBits => core::random_bits(rng),
        Op::Cast => core::cast(rng),
        Op::Neg
        | Op::Abs
        | Op::Exp
        | Op::Log
        | Op::Sqrt
        | Op::Rsqrt
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf => core::unary(op, rng),
        Op::Not => vec![Variant::new("", vec![rng.bools(&[3, 43])], Attrs::none())],
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min => core::arithmetic(op, rng),
        Op::And | Op::Or => core::bitwise(rng),
        Op::Shl | Op::Shr => core::shift(rng),
        Op::Compare => core::compare(rng),
        Op::Select => core::select(rng),
        Op::ReduceSum | Op::ReduceMax => core::reduce(op, rng),
        Op::Reshape => core::reshape(rng),
        Op::Permute => core::permute(rng),
        Op::Broadcast => core::broadcast(rng),
        Op::Slice => core::slice(rng),
        Op::Pad => core::pad(rng),
        Op::Concat => core::concat(rng),
        Op::Matmul => core::matmul(rng),
        Op::Gather => core::gather(rng),
        Op::ScatterAdd => core::scatter_add(rng),
        Op::DynamicSlice => core::dynamic_slice(rng),
        Op::UpdateSlice => core::update_slice(rng),
        Op::Softmax => composite::softmax(rng),
        Op::SoftmaxGrad => composite::softmax_grad(rng),
        Op::RmsNorm => composite::norm(rng, &[Norm::X, Norm::Weight]),
        Op::RmsNormGrad | Op::LayerNormGrad => composite::norm(rng, &[Norm::X, Norm::Weight, Norm::X]),
        Op::LayerNorm => composite::norm(rng, &[Norm::X, Norm::Weight, Norm::Weight]),
        Op::Rope => composite::rope(rng),
        Op::Attention => attention::attention(rng),
        Op::AttentionGrad => attention::attention_grad(rng),
        Op::Activation => composite::activation(1, rng),
        Op::ActivationGrad | Op::Gated => composite::activation(2, rng),
        Op::GatedGrad => composite::activation(3, rng),
        Op::Dropout => composite::dropout(rng),
        Op::CrossEntropy => composite::cross_entropy(rng),
        Op::LinearCrossEntropy => composite::linear_cross_entropy(rng),
        Op::SumSquares => composite::sum_squares(rng),
        Op::AdamW => composite::adamw(rng),
        Op::Dequantize => composite::dequantize(rng),
        Op::QuantizedMatmul => composite::quantized_matmul(rng),
    }
}

/// The operands that norms have.
#[derive(Clone, Copy)]
enum Norm {
    /// [.., C]
    X,
    /// `[C]`
    Weight,
}

/// Numbers of a float type given one by one.
fn given(dtype: DType, values: &[f64]) -> Tensor {
    tensor(dtype, &[values.len()], Values::Float(values.to_vec())).rounded()
}

/// `u32` numbers given one by one.
fn numbers(shape: &[usize], values: &[u32]) -> Tensor {
    tensor(DType::U32, shape, Values::U32(values.to_vec()))
}

/// Truth values given one by one.
fn truths(values: &[bool]) -> Tensor {
    tensor(DType::Bool, &[values.len()], Values::Bool(values.to_vec()))
}

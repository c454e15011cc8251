use super::tensor::{Tensor, Values};
use super::{
    activation, attention, elementwise, index, loss, matmul, norm, optim, quant, random, reduce, rope, shape,
    softmax,
};
use crate::program::{Attrs, Op, TensorType};

/// One op with what it reads. The program is valid, so operands have the types that the op's rule asks for.
pub(crate) struct Call<'a> {
    pub(crate) attrs: &'a Attrs,
    pub(crate) operands: Vec<&'a Tensor>,
    pub(crate) results: Vec<&'a TensorType>,
}

impl Call<'_> {
    pub(super) fn floats(&self, operand: usize) -> &[f64] {
        self.operands[operand].floats()
    }

    pub(super) fn u32s(&self, operand: usize) -> &[u32] {
        self.operands[operand].u32s()
    }

    pub(super) fn shape(&self, operand: usize) -> &[usize] {
        &self.operands[operand].ty().shape
    }

    pub(super) fn dims<const N: usize>(&self, operand: usize) -> [usize; N] {
        let shape = self.shape(operand);
        shape.try_into().unwrap_or_else(|_| panic!("{shape:?} has not {N} dimensions"))
    }

    /// A `u32[]`.
    pub(super) fn position(&self, operand: usize) -> usize {
        self.u32s(operand)[0] as usize
    }

    /// The length of the last dimension.
    pub(super) fn row(&self, operand: usize) -> usize {
        self.shape(operand).last().copied().unwrap_or(1)
    }
}

/// The results of an op, floats not rounded.
pub(crate) fn evaluate(op: Op, call: &Call<'_>) -> Vec<Tensor> {
    let values = values(op, call);
    debug_assert_eq!(values.len(), call.results.len(), "{}", op.name());
    values.into_iter().zip(&call.results).map(|(values, ty)| Tensor::of_result(ty, values)).collect()
}

fn values(op: Op, call: &Call<'_>) -> Vec<Values> {
    match op {
        Op::Constant => shape::constant(call),
        Op::Iota => shape::iota(call),
        Op::RandomBits => random::random_bits(call),
        Op::Cast => elementwise::cast(call),
        Op::Neg
        | Op::Abs
        | Op::Exp
        | Op::Log
        | Op::Sqrt
        | Op::Rsqrt
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf => elementwise::unary(op, call),
        Op::Not => elementwise::not(call),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min | Op::And | Op::Or | Op::Shl | Op::Shr => {
            elementwise::binary(op, call)
        }
        Op::Compare => elementwise::compare(call),
        Op::Select => elementwise::select(call),
        Op::ReduceSum => reduce::reduce_sum(call),
        Op::ReduceMax => reduce::reduce_max(call),
        Op::Reshape => shape::reshape(call),
        Op::Permute => shape::permute(call),
        Op::Broadcast => shape::broadcast(call),
        Op::Slice => shape::slice(call),
        Op::Pad => shape::pad(call),
        Op::Concat => shape::concat(call),
        Op::Matmul => matmul::matmul(call),
        Op::Gather => index::gather(call),
        Op::ScatterAdd => index::scatter_add(call),
        Op::DynamicSlice => index::dynamic_slice(call),
        Op::UpdateSlice => index::update_slice(call),
        Op::Softmax => softmax::softmax(call),
        Op::SoftmaxGrad => softmax::softmax_grad(call),
        Op::RmsNorm => norm::rms_norm(call),
        Op::RmsNormGrad => norm::rms_norm_grad(call),
        Op::LayerNorm => norm::layer_norm(call),
        Op::LayerNormGrad => norm::layer_norm_grad(call),
        Op::Rope => rope::rope(call),
        Op::Attention => attention::attention(call),
        Op::AttentionGrad => attention::attention_grad(call),
        Op::Activation => activation::activation(call),
        Op::ActivationGrad => activation::activation_grad(call),
        Op::Gated => activation::gated(call),
        Op::GatedGrad => activation::gated_grad(call),
        Op::Dropout => random::dropout(call),
        Op::CrossEntropy => loss::cross_entropy(call),
        Op::LinearCrossEntropy => loss::linear_cross_entropy(call),
        Op::SumSquares => optim::sum_squares(call),
        Op::AdamW => optim::adamw(call),
        Op::Dequantize => quant::dequantize(call),
        Op::QuantizedMatmul => quant::quantized_matmul(call),
    }
}

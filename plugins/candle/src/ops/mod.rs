//! What every op is in candle's: one file a family. Each gets a [`Step`] and gives its results.

mod elementwise;
mod index;
mod matmul;
mod movement;
mod random;
mod reduce;

use candle_core::{DType as CandleType, Device as Placed, Tensor};
use finetune_plugin_api::program::{Attrs, Op, TensorType};

/// One op with its operands.
pub struct Step<'a> {
    pub placed: &'a Placed,
    pub op: Op,
    pub attrs: &'a Attrs,
    pub operands: Vec<&'a Tensor>,
    pub types: Vec<&'a TensorType>,
    pub results: Vec<&'a TensorType>,
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
    Vec::new()
}

/// Runs one op.
pub fn execute(step: &Step) -> Results {
    let one = |result: candle_core::Result<Tensor>| Ok(vec![Some(result?)]);
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
        Op::Cast => one(elementwise::cast(step.operands[0], step.results[0].dtype)),
        Op::Neg
        | Op::Abs
        | Op::Exp
        | Op::Log
        | Op::Sqrt
        | Op::Rsqrt
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf
        | Op::Not => one(elementwise::unary(step)),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max | Op::Min | Op::And | Op::Or | Op::Shl | Op::Shr => {
            one(elementwise::binary(step))
        }
        Op::Compare => one(elementwise::compare(step)),
        Op::Select => one(elementwise::select(step)),
        Op::ReduceSum | Op::ReduceMax => one(reduce::run(step)),
        Op::Matmul => one(matmul::run(step)),
        Op::Gather => one(index::gather(step)),
        Op::ScatterAdd => one(index::scatter_add(step)),
        Op::DynamicSlice => one(index::dynamic_slice(step)),
        Op::UpdateSlice => one(index::update_slice(step)),
        // The enum may grow; the host gives only ops that this plugin says it has.
        other => Err(Failure::Unsupported(format!("the candle plugin has no op {}", other.name()))),
    }
}

impl Step<'_> {
    /// An operand as f32.
    fn wide(&self, operand: usize) -> candle_core::Result<Tensor> {
        self.operands[operand].to_dtype(CandleType::F32)
    }

    /// A computed result in the type that it is to have.
    fn narrow(&self, result: usize, value: &Tensor) -> candle_core::Result<Tensor> {
        elementwise::cast(value, self.results[result].dtype)
    }
}

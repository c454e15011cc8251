//! What every op is in MLX's: one file a family. Each gets a [`Step`] and gives its results.

mod activation;
mod attention;
mod elementwise;
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

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::{PlanOptions, Term};
use finetune_plugin_api::program::{Attrs, DType, Op, TensorType, ValueId, rows_and_width};

use crate::mlx::{self, Array, Mlx};
pub use loss::chunks;
pub use matmul::add as add_product;

/// One op with its operands.
pub struct Step<'a> {
    pub mlx: &'a Mlx,
    pub op: Op,
    pub attrs: &'a Attrs,
    pub operands: Vec<&'a Array>,
    /// The operands as values of the program.
    pub values: &'a [ValueId],
    pub types: Vec<&'a TensorType>,
    pub results: Vec<&'a TensorType>,
    /// For every result, whether anything reads it.
    pub needed: Vec<bool>,
    /// For attention: all rows are known to begin at 0 and to be full.
    pub full: bool,
    pub factors: &'a RefCell<Factors>,
    /// Takes, in order, arrays on the way to results that are to be evaluated one after another.
    pub parts: &'a RefCell<Vec<Array>>,
}

/// The factors of rotary positions that were computed in this graph.
pub type Factors = HashMap<rope::Key, [Array; 2]>;

/// The results; `None` for those that are not needed.
pub type Results = Result<Vec<Option<Array>>, Error>;

/// Composite ops that are done here on a device.
pub fn native(gpu: bool) -> Vec<&'static str> {
    // MLX 0.32's gradient of layer_norm was far off on an H100 for rows of 5 and of 129 elements in f32 (it agreed with
    // torch for the widths of the goldens): the host writes it as simpler ops there.
    let is_wrong = |name: &str| gpu && !cfg!(target_os = "macos") && name == "layer_norm_grad";
    NATIVE.iter().copied().filter(|name| !is_wrong(name)).collect()
}

const NATIVE: &[&str] = &[
    "softmax",
    "softmax_grad",
    "rms_norm",
    "rms_norm_grad",
    "layer_norm",
    "layer_norm_grad",
    "rope",
    "attention",
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

/// Ops for which MLX reuses the memory of an operand that nothing else reads.
const IN_PLACE: &[&str] = &[
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
    "select",
    "softmax",
    "rms_norm",
    "layer_norm",
    "activation",
    "activation_grad",
    "gated",
    "gated_grad",
    "dropout",
    "scatter_add",
    "update_slice",
    "adamw",
];

/// On the processor: how many arrays as large as its first operand an op has beside operands and results, at most.
const STEPS: &[(&str, usize)] = &[
    ("softmax_grad", 3),
    ("rms_norm", 2),
    ("rms_norm_grad", 4),
    ("layer_norm", 2),
    ("layer_norm_grad", 5),
    ("rope", 3),
    ("activation", 5),
    ("activation_grad", 7),
    ("gated", 4),
    ("gated_grad", 7),
    ("dropout", 3),
    ("cross_entropy", 3),
];

/// How the host foresees the memory of a run. MLX places arrays by itself, at addresses that are multiples of a
/// page for large ones; the order is the program's as far as one op needs another.
pub fn plan_options(gpu: bool) -> PlanOptions {
    let mut workspace: BTreeMap<String, Vec<Term>> = BTreeMap::new();
    workspace.insert("linear_cross_entropy".into(), loss::workspace(gpu));
    workspace.insert("attention".into(), attention::workspace(12));
    workspace.insert("attention_grad".into(), attention::workspace(24));
    if !gpu {
        workspace.insert("matmul".into(), matmul::workspace());
        // Each step of these is an array of its own there, in f32.
        for (op, arrays) in STEPS {
            let dims = vec![(0, 0), (0, 1), (0, 2), (0, 3)];
            workspace.insert((*op).into(), vec![Term { bytes: 4 * arrays, dims, ..Term::default() }]);
        }
    }
    PlanOptions {
        strided_views: true,
        widening_views: false,
        direct_outputs: true,
        direct_state: true,
        in_place: IN_PLACE.iter().map(ToString::to_string).collect(),
        align: 256,
        workspace,
    }
}

/// Builds the graph of one op.
pub fn execute(step: &Step) -> Results {
    let one = |result: Result<Array, Error>| Ok(vec![Some(result?)]);
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
        Op::Cast => {
            one(elementwise::cast(step.mlx, step.operands[0], step.types[0].dtype, step.results[0].dtype))
        }
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
        Op::Select => one(step.mlx.select(step.operands[0], step.operands[1], step.operands[2])),
        Op::ReduceSum | Op::ReduceMax => one(reduce::run(step)),
        Op::Matmul => one(matmul::run(step)),
        Op::Gather => one(index::gather(step)),
        Op::ScatterAdd => one(index::scatter_add(step)),
        Op::DynamicSlice => one(index::dynamic_slice(step)),
        Op::UpdateSlice => one(index::update_slice(step)),
        Op::Softmax => one(softmax::forward(step)),
        Op::SoftmaxGrad => one(softmax::grad(step)),
        Op::RmsNorm => one(norm::rms(step)),
        Op::LayerNorm => one(norm::layer(step)),
        Op::RmsNormGrad => norm::rms_grad(step),
        Op::LayerNormGrad => norm::layer_grad(step),
        Op::Rope => one(rope::run(step)),
        Op::Attention => one(attention::forward(step)),
        Op::AttentionGrad => attention::grad(step),
        Op::Activation | Op::ActivationGrad => one(activation::plain(step)),
        Op::Gated | Op::GatedGrad => activation::gated(step),
        Op::CrossEntropy => loss::cross_entropy(step),
        Op::LinearCrossEntropy => loss::linear_cross_entropy(step),
        Op::SumSquares => one(optim::sum_squares(step)),
        Op::AdamW => optim::adamw(step),
        Op::Dequantize => one(quant::dequantize(step)),
        Op::QuantizedMatmul => one(quant::matmul(step)),
        // The enum may grow; the host gives only ops that this plugin says it has.
        other => Err(Error::unsupported(format!("the mlx plugin has no op {}", other.name()))),
    }
}

impl Step<'_> {
    /// An operand as f32.
    fn wide(&self, operand: usize) -> Result<Array, Error> {
        self.mlx.f32(self.operands[operand])
    }

    /// A computed result in the type that it is to have.
    fn narrow(&self, result: usize, value: &Array) -> Result<Array, Error> {
        self.mlx.cast(value, self.results[result].dtype)
    }

    fn float(&self, name: &str) -> f32 {
        self.attrs.get_float(name) as f32
    }

    /// Whether MLX's kernels take these operands in their own type with sums in f32. On the processor they do not.
    fn is_direct(&self, operands: &[usize]) -> bool {
        self.mlx.gpu && operands.iter().all(|&i| self.types[i].dtype == self.types[operands[0]].dtype)
    }
}

/// A scalar of type f32.
fn scalar(value: f32) -> Result<Array, Error> {
    mlx::from_bytes(&value.to_ne_bytes(), &[], DType::F32)
}

/// A scalar of type u32.
fn scalar_u32(value: u32) -> Result<Array, Error> {
    mlx::from_bytes(&value.to_ne_bytes(), &[], DType::U32)
}

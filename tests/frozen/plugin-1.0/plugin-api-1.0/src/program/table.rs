//! The op table: every op of the language is one row.
//!
//! Parser, printer, validator, reference interpreter, conformance cases and the reference page derive from
//! the rows or are checked against them. A new op is one row here and one function (or file) in
//! [`super::ops`].

use super::ValueId;
use super::attrs::{AttrDef, AttrKind, Attrs, Default};
use super::builder::Builder;
use super::ops;
use super::types::TensorType;

/// Whether every plugin must have an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Every plugin has it.
    Core,
    /// A plugin may have it; for one that has not, the host writes its decomposition into the program.
    Composite,
}

/// One operand or result in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in the documentation and in messages.
    pub name: &'static str,
    /// If set: it is there only where this truth value attribute is true.
    pub when: Option<&'static str>,
}

/// Computes the result types from operand types and complete attributes, or says what does not fit.
pub type Infer = fn(&[TensorType], &Attrs) -> Result<Vec<TensorType>, String>;

/// Writes an op as simpler ones. Gets the operands and complete attributes, returns the results.
pub type Decompose = fn(&mut Builder, &[ValueId], &Attrs) -> Vec<ValueId>;

/// A row of the table.
pub struct OpDef {
    /// Which op this is.
    pub op: Op,
    /// Its name in the text form.
    pub name: &'static str,
    /// Whether every plugin must have it.
    pub class: Class,
    /// What it reads. `None`: any number of operands from one up.
    pub operands: Option<&'static [Slot]>,
    /// What it defines.
    pub results: &'static [Slot],
    /// Its attributes.
    pub attrs: &'static [AttrDef],
    /// Shape and dtype rule.
    pub infer: Infer,
    /// How a composite op is written in simpler ones.
    pub decompose: Option<Decompose>,
    /// What it means.
    pub doc: &'static str,
}

impl OpDef {
    /// How many operands it has under these attributes; `None` for any number.
    pub fn operand_count(&self, attrs: &Attrs) -> Option<usize> {
        self.operands.map(|slots| slots.iter().filter(|slot| slot.present(attrs)).count())
    }

    /// How many results it has under these attributes.
    pub fn result_count(&self, attrs: &Attrs) -> usize {
        self.results.iter().filter(|slot| slot.present(attrs)).count()
    }

    /// The position of the named operand under these attributes, if it is there.
    pub fn operand_index(&self, attrs: &Attrs, name: &str) -> Option<usize> {
        self.operands?.iter().filter(|slot| slot.present(attrs)).position(|slot| slot.name == name)
    }
}

impl Slot {
    fn present(&self, attrs: &Attrs) -> bool {
        self.when.is_none_or(|attr| attrs.get_bool(attr))
    }
}

const fn slot(name: &'static str) -> Slot {
    Slot { name, when: None }
}

const fn slot_when(name: &'static str, attr: &'static str) -> Slot {
    Slot { name, when: Some(attr) }
}

const fn attr(name: &'static str, kind: AttrKind, default: Default) -> AttrDef {
    AttrDef { name, kind, default }
}

const OUT: &[Slot] = &[slot("out")];
const X: Option<&[Slot]> = Some(&[slot("x")]);
const AB: Option<&[Slot]> = Some(&[slot("a"), slot("b")]);

const AXIS: AttrDef = attr("axis", AttrKind::Int, Default::Required);
const EPS: AttrDef = attr("eps", AttrKind::Float, Default::Required);
const GATE_KIND: AttrDef = attr("kind", AttrKind::Word(&["silu", "gelu", "gelu_tanh"]), Default::Required);
const ATTENTION_ATTRS: &[AttrDef] = &[
    attr("scale", AttrKind::Float, Default::Required),
    attr("causal", AttrKind::Bool, Default::Bool(true)),
    attr("window", AttrKind::Int, Default::Int(0)),
    attr("segments", AttrKind::Bool, Default::Bool(false)),
    attr("lse", AttrKind::Bool, Default::Bool(false)),
];
const QUANT_ATTRS: &[AttrDef] =
    &[attr("bits", AttrKind::Int, Default::Required), attr("group", AttrKind::Int, Default::Required)];

macro_rules! table {
    ($($op:ident $name:literal $class:ident $operands:expr => $results:expr, $attrs:expr, $infer:path, $decompose:expr;
       $doc:literal)*) => {
        /// Names an op. Its numbers may change from version to version; only the name crosses the boundary.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        // Shapes in brackets are no links.
        #[allow(rustdoc::broken_intra_doc_links)]
        pub enum Op {
            $(#[doc = $doc] $op,)*
        }

        /// The rows, in the order of [`Op`].
        pub static TABLE: &[OpDef] = &[
            $(OpDef {
                op: Op::$op, name: $name, class: Class::$class, operands: $operands, results: $results,
                attrs: $attrs, infer: $infer, decompose: $decompose, doc: $doc,
            },)*
        ];
    };
}

table! {
    // ---- making values
    Constant "constant" Core Some(&[]) => OUT,
        &[attr("dtype", AttrKind::DType, Default::Required), attr("value", AttrKind::Float, Default::Required)],
        ops::shape::infer_constant, None;
        "A scalar of type `dtype` with that value, rounded to nearest even. For `u32` the value is a whole number from 0 to 2^32 - 1, for `bool` 0 or 1."
    Iota "iota" Core Some(&[]) => OUT,
        &[attr("dtype", AttrKind::DType, Default::Required), attr("shape", AttrKind::Ints, Default::Required), AXIS],
        ops::shape::infer_iota, None;
        "Each element is its own index along `axis`. `dtype` is `u32` or `f32`."
    RandomBits "random_bits" Core
        Some(&[slot("seed"), slot("step"), slot("example"), slot("position")]) => OUT,
        &[attr("channels", AttrKind::Int, Default::Required), attr("site", AttrKind::Int, Default::Required)],
        ops::random::infer_random_bits, None;
        "Philox4x32-10 (Salmon et al. 2011). `seed` u32[2] is the key, `step` u32[], `example` and `position` u32[S]; the result is u32[S, channels]. The element for channel c is word c mod 4 of the block for the counter (position, example, step, site * 65536 + c div 4). So the bits depend on what is named and on nothing else: not on padding, not on how a batch is split. channels <= 262144, site < 65536."
    Cast "cast" Core X => OUT, &[attr("dtype", AttrKind::DType, Default::Required)], ops::elementwise::infer_cast, None;
        "The same values as another type. To a float type: rounded to nearest even. Float to `u32`: toward zero, clamped to the range, NaN to 0. To `bool`: whether it is not zero. From `bool`: 0 or 1."

    // ---- elementwise, one operand: float to the same float; computed in f32, rounded once
    Neg "neg" Core X => OUT, &[], ops::elementwise::infer_unary, None; "-x."
    Abs "abs" Core X => OUT, &[], ops::elementwise::infer_unary, None; "|x|."
    Exp "exp" Core X => OUT, &[], ops::elementwise::infer_unary, None; "e^x."
    Log "log" Core X => OUT, &[], ops::elementwise::infer_unary, None; "The natural logarithm of x."
    Sqrt "sqrt" Core X => OUT, &[], ops::elementwise::infer_unary, None; "The square root of x."
    Rsqrt "rsqrt" Core X => OUT, &[], ops::elementwise::infer_unary, None; "One over the square root of x."
    Sin "sin" Core X => OUT, &[], ops::elementwise::infer_unary, None; "sin x, x in radians."
    Cos "cos" Core X => OUT, &[], ops::elementwise::infer_unary, None; "cos x, x in radians."
    Tanh "tanh" Core X => OUT, &[], ops::elementwise::infer_unary, None; "The hyperbolic tangent of x."
    Erf "erf" Core X => OUT, &[], ops::elementwise::infer_unary, None; "The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x."
    Not "not" Core X => OUT, &[], ops::elementwise::infer_not, None; "The other truth value."

    // ---- elementwise, two operands of the same type
    Add "add" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "a + b, for floats and `u32`."
    Sub "sub" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "a - b, for floats and `u32`."
    Mul "mul" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "a b, for floats and `u32`."
    Div "div" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "a / b; for `u32` the whole part, and 0 where b is 0."
    Max "max" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "The larger of a and b; a NaN wins."
    Min "min" Core AB => OUT, &[], ops::elementwise::infer_arith, None; "The smaller of a and b; a NaN wins."
    And "and" Core AB => OUT, &[], ops::elementwise::infer_bits, None; "Bitwise and of `u32`, logical and of `bool`."
    Or "or" Core AB => OUT, &[], ops::elementwise::infer_bits, None; "Bitwise or of `u32`, logical or of `bool`."
    Shl "shl" Core AB => OUT, &[], ops::elementwise::infer_shift, None; "a shifted left by b bits, `u32`; 0 where b >= 32."
    Shr "shr" Core AB => OUT, &[], ops::elementwise::infer_shift, None; "a shifted right by b bits, `u32`; 0 where b >= 32."
    Compare "compare" Core AB => OUT,
        &[attr("kind", AttrKind::Word(&["eq", "ne", "lt", "le", "gt", "ge"]), Default::Required)],
        ops::elementwise::infer_compare, None;
        "Whether a is equal to (not equal to, less than, ...) b, as `bool`. A NaN is only not equal."
    Select "select" Core Some(&[slot("cond"), slot("a"), slot("b")]) => OUT, &[], ops::elementwise::infer_select, None;
        "a where cond is true, b elsewhere; all of one shape, a and b of one type."

    // ---- reductions
    ReduceSum "reduce_sum" Core X => OUT, &[attr("axes", AttrKind::Ints, Default::Required)], ops::reduce::infer_reduce, None;
        "The sum over `axes` (ascending), which stay as dimensions of 1. Floats; summed in f32 or better, rounded once."
    ReduceMax "reduce_max" Core X => OUT, &[attr("axes", AttrKind::Ints, Default::Required)], ops::reduce::infer_reduce, None;
        "The largest element over `axes` (ascending), which stay as dimensions of 1. Floats; a NaN wins."

    // ---- shape
    Reshape "reshape" Core X => OUT, &[attr("shape", AttrKind::Ints, Default::Required)], ops::shape::infer_reshape, None;
        "The same elements in the same order in another shape."
    Permute "permute" Core X => OUT, &[attr("perm", AttrKind::Ints, Default::Required)], ops::shape::infer_permute, None;
        "Dimension i of the result is dimension perm[i] of x."
    Broadcast "broadcast" Core X => OUT, &[attr("shape", AttrKind::Ints, Default::Required)], ops::shape::infer_broadcast, None;
        "x repeated to `shape`: its dimensions are aligned with the last ones of `shape`; each is equal to its partner or 1."
    Slice "slice" Core X => OUT,
        &[attr("start", AttrKind::Ints, Default::Required), attr("size", AttrKind::Ints, Default::Required)],
        ops::shape::infer_slice, None;
        "The block of x of shape `size` that begins at `start`."
    Pad "pad" Core X => OUT,
        &[attr("low", AttrKind::Ints, Default::Required), attr("high", AttrKind::Ints, Default::Required),
          attr("value", AttrKind::Float, Default::Float(0.0))],
        ops::shape::infer_pad, None;
        "x with low[i] elements before and high[i] after it along each dimension i, all of that value."
    Concat "concat" Core None => OUT, &[AXIS], ops::shape::infer_concat, None;
        "The operands, one after another along `axis`; they agree in everything else."

    // ---- products and indices
    Matmul "matmul" Core AB => OUT,
        &[attr("transpose_a", AttrKind::Bool, Default::Bool(false)), attr("transpose_b", AttrKind::Bool, Default::Bool(false))],
        ops::matmul::infer_matmul, None;
        "Matrix product over the last two dimensions: a [.., M, K] (or [.., K, M] with transpose_a) and b [.., K, N] (or [.., N, K] with transpose_b) give [.., M, N]. The leading dimensions are equal, both operands are of one float type; products are accumulated in f32 or better and rounded once. For `f32` the products themselves are those of f32 operands, not of a shorter type."
    Gather "gather" Core Some(&[slot("table"), slot("indices")]) => OUT, &[], ops::index::infer_gather, None;
        "Rows of a table: table [V, R..] and indices u32[S] give [S, R..]. An index of V or more is taken as V - 1."
    ScatterAdd "scatter_add" Core Some(&[slot("base"), slot("indices"), slot("updates")]) => OUT, &[], ops::index::infer_scatter_add, None;
        "base [V, R..] with the rows updates [S, R..] added to it at indices u32[S]; equal indices add up. An index of V or more is taken as V - 1. Floats, accumulated in f32 or better."
    DynamicSlice "dynamic_slice" Core Some(&[slot("x"), slot("start")]) => OUT,
        &[AXIS, attr("size", AttrKind::Int, Default::Required)], ops::index::infer_dynamic_slice, None;
        "`size` elements of x along `axis`, from the run-time position start u32[] on; a start beyond the last one that fits is taken as that."
    UpdateSlice "update_slice" Core Some(&[slot("base"), slot("update"), slot("start")]) => OUT,
        &[AXIS], ops::index::infer_update_slice, None;
        "base with `update` written over it along `axis` from the run-time position start u32[] on; a start beyond the last one that fits is taken as that. base and update agree in all other dimensions."

    // ---- composites
    Softmax "softmax" Composite X => OUT, &[], ops::softmax::infer_softmax, Some(ops::softmax::decompose_softmax);
        "Softmax over the last dimension, computed in f32."
    SoftmaxGrad "softmax_grad" Composite Some(&[slot("y"), slot("dy")]) => &[slot("dx")], &[],
        ops::softmax::infer_softmax_grad, Some(ops::softmax::decompose_softmax_grad);
        "The gradient of softmax from its result y: y (dy - sum(y dy)), over the last dimension, in f32."
    RmsNorm "rms_norm" Composite Some(&[slot("x"), slot("weight")]) => OUT, &[EPS],
        ops::norm::infer_rms_norm, Some(ops::norm::decompose_rms_norm);
        "x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019). x [.., C], weight [C] of any float type; computed in f32, the result has x's type."
    RmsNormGrad "rms_norm_grad" Composite Some(&[slot("x"), slot("weight"), slot("dy")]) => &[slot("dx"), slot("dweight")], &[EPS],
        ops::norm::infer_rms_norm_grad, Some(ops::norm::decompose_rms_norm_grad);
        "The gradients of rms_norm; dx has x's type, dweight [C] weight's."
    LayerNorm "layer_norm" Composite Some(&[slot("x"), slot("weight"), slot("bias")]) => OUT, &[EPS],
        ops::norm::infer_layer_norm, Some(ops::norm::decompose_layer_norm);
        "(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (Ba et al. 2016), the variance being the mean of squares around the mean. x [.., C], weight and bias [C] of any float types; computed in f32, the result has x's type."
    LayerNormGrad "layer_norm_grad" Composite Some(&[slot("x"), slot("weight"), slot("dy")]) => &[slot("dx"), slot("dweight"), slot("dbias")], &[EPS],
        ops::norm::infer_layer_norm_grad, Some(ops::norm::decompose_layer_norm_grad);
        "The gradients of layer_norm; dx has x's type, dweight and dbias [C] weight's."
    Rope "rope" Composite Some(&[slot("x"), slot("positions"), slot("inv_freq")]) => OUT,
        &[attr("interleaved", AttrKind::Bool, Default::Bool(false)), attr("inverse", AttrKind::Bool, Default::Bool(false)),
          attr("scale", AttrKind::Float, Default::Float(1.0))],
        ops::rope::infer_rope, Some(ops::rope::decompose_rope);
        "Rotary position embedding (Su et al. 2021). x [B, T, H, D], positions u32[B, T], inv_freq f32[R/2] with even R <= D. Pair i of the first R channels, (i, i + R/2) or, if interleaved, (2i, 2i + 1), is turned by the angle positions * inv_freq[i] and multiplied by `scale`; other channels pass unchanged. `inverse` turns the other way: with the same scale it is the gradient. Angles and products in f32."
    Attention "attention" Composite
        Some(&[slot("q"), slot("k"), slot("v"), slot("start"), slot("valid"), slot_when("segments", "segments")])
        => &[slot("out"), slot_when("lse", "lse")], ATTENTION_ATTRS,
        ops::attention::infer_attention, Some(ops::attention::decompose_attention);
        "Scaled dot product attention. q [B, T, H, D], k [B, S, G, D], v [B, S, G, E] with H a multiple of G (query head h reads key head h div (H/G)); the result is [B, T, H, E]. start u32[B] and valid u32[B] are run-time operands: query i of row b stands at key index p = start[b] + i and sees key j if j < valid[b]; and j <= p if `causal`; and j + window > p if `window` is not 0; and segments[b, j] = segments[b, p] (p at most S - 1) if there are `segments` u32[B, S]. Scores q k * scale, softmax and sums in f32. A query that sees no key gives zeros. `window` and S are at most 2^30. lse f32[B, H, T] is the logarithm of the sum of exp(score), -inf for such a query."
    AttentionGrad "attention_grad" Composite
        Some(&[slot("q"), slot("k"), slot("v"), slot("start"), slot("valid"), slot_when("segments", "segments"),
               slot("dout"), slot_when("out", "lse"), slot_when("lse", "lse")])
        => &[slot("dq"), slot("dk"), slot("dv")], ATTENTION_ATTRS,
        ops::attention::infer_attention_grad, Some(ops::attention::decompose_attention_grad);
        "The gradients of attention for dout [B, T, H, E]. With `lse`, out and lse of the forward op are given; without, they are computed again."
    Activation "activation" Composite X => OUT, &[GATE_KIND],
        ops::activation::infer_activation, Some(ops::activation::decompose_activation);
        "silu: x / (1 + e^-x). gelu: x/2 (1 + erf(x / sqrt 2)). gelu_tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Computed in f32."
    ActivationGrad "activation_grad" Composite Some(&[slot("x"), slot("dy")]) => &[slot("dx")], &[GATE_KIND],
        ops::activation::infer_activation_grad, Some(ops::activation::decompose_activation_grad);
        "dy times the derivative of activation at x. Computed in f32."
    Gated "gated" Composite Some(&[slot("gate"), slot("up")]) => OUT, &[GATE_KIND],
        ops::activation::infer_gated, Some(ops::activation::decompose_gated);
        "activation(gate) * up (Shazeer 2020). Computed in f32."
    GatedGrad "gated_grad" Composite Some(&[slot("gate"), slot("up"), slot("dy")]) => &[slot("dgate"), slot("dup")], &[GATE_KIND],
        ops::activation::infer_gated_grad, Some(ops::activation::decompose_gated_grad);
        "The gradients of gated. Computed in f32."
    Dropout "dropout" Composite
        Some(&[slot("x"), slot("seed"), slot("step"), slot("example"), slot("position")]) => OUT,
        &[attr("rate", AttrKind::Float, Default::Required), attr("site", AttrKind::Int, Default::Required)],
        ops::random::infer_dropout, Some(ops::random::decompose_dropout);
        "x [S, C] times 1/(1 - rate) where the bits of random_bits (with channels C) are at least round(rate * 2^32), else 0. It is its own gradient: applied to dy with the same operands and attributes. 0 <= rate < 1."
    CrossEntropy "cross_entropy" Composite Some(&[slot("logits"), slot("targets"), slot("weights")])
        => &[slot("loss"), slot("dlogits")], &[],
        ops::loss::infer_cross_entropy, Some(ops::loss::decompose_cross_entropy);
        "loss f32[] is the sum over rows of weights[n] * -log softmax(logits[n])[targets[n]], in f32; dlogits its gradient. logits [N, V], targets u32[N] (taken as V - 1 if larger), weights f32[N]."
    LinearCrossEntropy "linear_cross_entropy" Composite
        Some(&[slot("x"), slot("weight"), slot("targets"), slot("weights")])
        => &[slot("loss"), slot("dx"), slot("dweight")], &[],
        ops::loss::infer_linear_cross_entropy, Some(ops::loss::decompose_linear_cross_entropy);
        "cross_entropy of the logits x weight^T, which need never be whole in memory: x [N, D], weight [V, D], both of one float type, targets u32[N], weights f32[N]; loss f32[] and its gradients dx and dweight, of their operands' types."
    SumSquares "sum_squares" Composite X => OUT, &[], ops::optim::infer_sum_squares, Some(ops::optim::decompose_sum_squares);
        "The sum of the squares of all elements, as f32[]."
    AdamW "adamw" Composite
        Some(&[slot("param"), slot("m"), slot("v"), slot("grad"), slot("scale"), slot("lr"), slot("correction1"), slot("correction2")])
        => &[slot("param"), slot("m"), slot("v")],
        &[attr("beta1", AttrKind::Float, Default::Required), attr("beta2", AttrKind::Float, Default::Required),
          EPS, attr("weight_decay", AttrKind::Float, Default::Required)],
        ops::optim::infer_adamw, Some(ops::optim::decompose_adamw);
        "AdamW (Loshchilov and Hutter 2019). param, m, v, grad f32 of one shape; scale, lr, correction1 = 1 - beta1^t and correction2 = 1 - beta2^t f32[]. With g = scale * grad: m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; param = param (1 - lr weight_decay) - lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps)."
    Dequantize "dequantize" Composite Some(&[slot("packed"), slot("scales"), slot("biases")]) => OUT, QUANT_ATTRS,
        ops::quant::infer_dequantize, Some(ops::quant::decompose_dequantize);
        "Affine groups: packed u32[R, K bits/32] holds K whole numbers of `bits` (4 or 8) a row, the first in the lowest bits; number i becomes scales[r, i div group] * number + biases[r, i div group]. scales and biases [R, K/group], of one float type, which is the result's, [R, K]. Computed in f32."
    QuantizedMatmul "quantized_matmul" Composite
        Some(&[slot("x"), slot("packed"), slot("scales"), slot("biases")]) => OUT,
        &[QUANT_ATTRS[0], QUANT_ATTRS[1], attr("transpose", AttrKind::Bool, Default::Bool(true))],
        ops::quant::infer_quantized_matmul, Some(ops::quant::decompose_quantized_matmul);
        "The product of x with a dequantized matrix W [R, K]: x [N, K] W^T gives [N, R]; without `transpose`, x [N, R] W gives [N, K]. x is of the type of scales."
}

impl Op {
    /// Its row.
    pub fn def(self) -> &'static OpDef {
        &TABLE[self as usize]
    }

    /// Its name in the text form.
    pub fn name(self) -> &'static str {
        self.def().name
    }

    /// The inverse of [`Op::name`].
    pub fn from_name(name: &str) -> Option<Op> {
        TABLE.iter().find(|def| def.name == name).map(|def| def.op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Op::def` indexes the table by the enum's number, and names are how ops cross the boundary.
    #[test]
    fn rows_stand_in_the_order_of_the_enum_and_names_are_unique() {
        for (i, def) in TABLE.iter().enumerate() {
            assert_eq!(def.op as usize, i);
            assert_eq!(Op::from_name(def.name), Some(def.op), "{} is not unique", def.name);
        }
    }

    #[test]
    fn composites_and_only_they_have_a_decomposition() {
        for def in TABLE {
            assert_eq!(def.class == Class::Composite, def.decompose.is_some(), "{}", def.name);
        }
    }
}

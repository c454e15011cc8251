//! Whole programs: what becomes of state, outputs, unread results and memory that is used again.

use std::fmt::Write;

use super::random::Random;
use super::{Case, case};
use crate::program::{DType, TensorType, text};
use crate::reference::Tensor;

const PROGRAMS: &[(&str, &str)] = &[
    (
        "a state is updated",
        "%0 = input \"x\" : f32[3,5]\n%1 = state \"sum\" : f32[3,5]\n%2 = add(%0, %1) : f32[3,5]\n\
         update %1 = %2\n",
    ),
    (
        "a state is read after its new value is known",
        "%0 = input \"x\" : f32[129]\n%1 = state \"sum\" : f32[129]\n%2 = add(%0, %1) : f32[129]\n\
         %3 = sub(%1, %0) : f32[129]\nupdate %1 = %2\noutput \"old\" = %1\noutput \"less\" = %3\n\
         output \"new\" = %2\n",
    ),
    (
        "two states change places",
        "%0 = state \"a\" : f32[257]\n%1 = state \"b\" : f32[257]\nupdate %0 = %1\nupdate %1 = %0\n",
    ),
    (
        "one value goes to two states and an output",
        "%0 = input \"x\" : f32[7]\n%1 = state \"a\" : f32[7]\n%2 = state \"b\" : f32[7]\n\
         %3 = neg(%0) : f32[7]\nupdate %1 = %3\nupdate %2 = %3\noutput \"y\" = %3\n",
    ),
    (
        "a state that is not updated stays",
        "%0 = input \"x\" : f32[7]\n%1 = state \"kept\" : f32[7]\n%2 = mul(%0, %1) : f32[7]\n\
         output \"y\" = %2\n",
    ),
    (
        "a state takes an input and a parameter",
        "%0 = input \"x\" : u32[5]\n%1 = param \"p\" : f32[5]\n%2 = state \"a\" : u32[5]\n\
         %3 = state \"b\" : f32[5]\nupdate %2 = %0\nupdate %3 = %1\n",
    ),
    (
        "arguments are outputs",
        "%0 = input \"x\" : f32[3]\n%1 = param \"p\" : u32[2]\n%2 = state \"s\" : bool[4]\n\
         output \"x\" = %0\noutput \"p\" = %1\noutput \"s\" = %2\n",
    ),
    (
        "one value is two outputs",
        "%0 = input \"x\" : f32[3,5]\n%1 = exp(%0) : f32[3,5]\noutput \"a\" = %1\noutput \"b\" = %1\n",
    ),
    (
        "unread arguments and results",
        "%0 = input \"x\" : f32[3,5]\n%1 = param \"unread\" : f32[9]\n%2 = param \"weight\" : f32[5]\n\
         %3 = softmax(%0) : f32[3,5]\n\
         %4, %5, %6 = layer_norm_grad(%0, %2, %0) {eps = 1e-5} : f32[3,5], f32[5], f32[5]\n\
         output \"dbias\" = %6\n",
    ),
    (
        "a reshaped argument is a new value",
        "%0 = state \"s\" : f32[2,3]\n%1 = reshape(%0) {shape = [6]} : f32[6]\n%2 = neg(%1) : f32[6]\n\
         %3 = reshape(%2) {shape = [2,3]} : f32[2,3]\nupdate %0 = %3\noutput \"old\" = %1\n",
    ),
    (
        "a cache is written and read",
        "%0 = input \"new\" : f32[2,1,3]\n%1 = input \"at\" : u32[]\n%2 = state \"cache\" : f32[2,9,3]\n\
         %3 = update_slice(%2, %0, %1) {axis = 1} : f32[2,9,3]\n%4 = mul(%3, %2) : f32[2,9,3]\n\
         update %2 = %3\noutput \"both\" = %4\n",
    ),
    (
        "an operand twice",
        "%0 = input \"x\" : f32[5,5]\n%1 = matmul(%0, %0) {transpose_b = true} : f32[5,5]\n\
         %2 = mul(%1, %1) : f32[5,5]\n%3 = concat(%2, %2, %0) {axis = 0} : f32[15,5]\noutput \"y\" = %3\n",
    ),
    (
        "a layer learns",
        "%0 = input \"ids\" : u32[6]\n%1 = input \"targets\" : u32[6]\n%2 = input \"weights\" : f32[6]\n\
         %3 = param \"table\" : f32[8,5]\n%4 = state \"head\" : f32[8,5]\n%5 = state \"gradient\" : f32[8,5]\n\
         %6 = state \"loss\" : f32[]\n%7 = param \"norm\" : f32[5]\n\
         %8 = gather(%3, %0) : f32[6,5]\n%9 = rms_norm(%8, %7) {eps = 1e-5} : f32[6,5]\n\
         %10 = gated(%9, %8) {kind = silu} : f32[6,5]\n\
         %11, %12, %13 = linear_cross_entropy(%10, %4, %1, %2) : f32[], f32[6,5], f32[8,5]\n\
         %14 = add(%5, %13) : f32[8,5]\n%15 = add(%6, %11) : f32[]\n%16 = sum_squares(%14) : f32[]\n\
         update %5 = %14\nupdate %6 = %15\noutput \"norm\" = %16\n",
    ),
    (
        "a layer in bf16",
        "%0 = input \"x\" : bf16[4,6]\n%1 = param \"w\" : bf16[9,6]\n%2 = state \"seen\" : bf16[4,9]\n\
         %3 = matmul(%0, %1) {transpose_b = true} : bf16[4,9]\n%4 = add(%3, %2) : bf16[4,9]\n\
         %5 = cast(%4) {dtype = f32} : f32[4,9]\n%6 = activation(%5) {kind = gelu} : f32[4,9]\n\
         update %2 = %4\noutput \"y\" = %6\n",
    ),
];

/// Every value is read again at the end, in another order, so none may be overwritten early; in between are
/// values of other sizes that are read once.
fn many_values() -> String {
    let mut text =
        String::from("%0 = input \"x\" : f32[65]\n%1 = constant() {dtype = f32, value = 1.0} : f32[]\n");
    text.push_str("%2 = broadcast(%1) {shape = [65]} : f32[65]\n");
    let mut kept = vec![0];
    for round in 0..12 {
        let first = 3 + 3 * round;
        let last = kept[kept.len() - 1];
        let _ = write!(
            text,
            "%{first} = add(%{last}, %2) : f32[65]\n\
             %{} = broadcast(%{first}) {{shape = [{rows},65]}} : f32[{rows},65]\n\
             %{} = reduce_max(%{}) {{axes = [0]}} : f32[1,65]\n",
            first + 1,
            first + 2,
            first + 1,
            rows = round + 2
        );
        let _ = writeln!(text, "output \"max{round}\" = %{}", first + 2);
        kept.push(first);
    }
    // Outputs may stand anywhere among the definitions.
    for (i, value) in kept.iter().rev().enumerate() {
        let _ = writeln!(text, "output \"kept{i}\" = %{value}");
    }
    text
}

fn argument(rng: &mut Random, ty: &TensorType) -> Tensor {
    match ty.dtype {
        DType::U32 => rng.u32s(&ty.shape, 5),
        dtype => rng.any(dtype, &ty.shape),
    }
}

/// All of them, run twice each: what a run leaves behind must not be seen by the next.
pub(super) fn cases() -> Vec<Case> {
    let many = many_values();
    let all = PROGRAMS.iter().copied().chain([("many values live at once", many.as_str())]);
    let cases = all.enumerate().map(|(i, (name, body))| {
        let text = format!("finetune.program {}\n{body}end\n", text::VERSION);
        let program =
            text::parse(&text).unwrap_or_else(|error| panic!("the case {name:?} is made wrongly: {error}"));
        let mut rng = Random::new(i as u64);
        let args = program.args().iter().map(|arg| argument(&mut rng, program.ty(arg.value))).collect();
        Case { runs: 2, ..case(format!("program: {name}"), program, args, false) }
    });
    cases.collect()
}

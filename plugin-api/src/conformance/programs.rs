//! Whole programs: what becomes of state, outputs, unread results and memory that is used again.

use std::fmt::Write;

use super::random::Random;
use super::{Case, case};
use crate::program::{Attrs, Builder, DType, Op, Program, TensorType, ValueId, text};
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

/// A view of a value, which may lie in its memory.
fn random_view(rng: &mut Random, b: &mut Builder, x: ValueId) -> ValueId {
    let [rows, width] = b.dims(x);
    match rng.below(4) {
        0 => b.reshape(x, &[1, width, rows]),
        1 => b.permute(x, &[1, 0]),
        2 => {
            let first = rng.below(rows);
            b.slice(x, &[first, 1], &[1, width - 1])
        }
        _ => b.broadcast(x, &[2, rows, width]),
    }
}

/// A random net of ops over one state and two inputs, of several sizes, its values kept within [-1, 1]; half
/// of the values are read long after they are made, and so are views of values that nothing else reads by then. What
/// a memory plan must not get wrong.
fn random_net(rng: &mut Random) -> Result<Program, crate::program::ProgramError> {
    let rows = |count: usize| TensorType::new(DType::F32, &[count, 33]);
    let mut b = Builder::new();
    let state = b.state("state", rows(3));
    let mut values = vec![b.input("x", rows(3)), state, b.input("y", rows(1))];
    let mut views = Vec::new();
    for _ in 0..24 {
        let x = values[rng.below(values.len())];
        let y = values[rng.below(values.len())];
        let result = match rng.below(6) {
            0 => b.neg(x),
            1 => b.softmax(x),
            2 => b.reduce_max(x, &[0]),
            3 => {
                // Divided by the number of terms, so that errors do not grow along the net.
                let product = b.matmul(x, y, false, true);
                let product = b.scale(product, 1.0 / 128.0);
                let product = b.matmul(product, y, false, false);
                b.sin(product)
            }
            4 => {
                let joined = b.concat(&[x, y], 0);
                let sum = b.reduce_sum(joined, &[0]);
                let mean = b.scale(sum, 0.125);
                let wide = b.broadcast(mean, &[2, 33]);
                b.tanh(wide)
            }
            _ if b.ty(x) == b.ty(y) => b.mul(x, y),
            _ => b.apply(Op::Activation, &[x], Attrs::none().word("kind", "gelu")),
        };
        values.push(result);
        if rng.below(3) == 0 {
            let x = values[rng.below(values.len())];
            views.push(random_view(rng, &mut b, x));
        }
    }
    let of_state: Vec<ValueId> = values.iter().copied().filter(|&value| b.ty(value) == b.ty(state)).collect();
    b.update(state, of_state[of_state.len() - 1]);
    for (i, &value) in values.iter().enumerate().skip(3).step_by(2) {
        b.output(&format!("value{i}"), value);
    }
    for (i, view) in views.into_iter().enumerate() {
        let read = b.neg(view);
        b.output(&format!("view{i}"), read);
    }
    b.finish()
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
    let written = all.map(|(name, body)| {
        let text = format!("finetune.program {}\n{body}end\n", text::VERSION);
        (name.to_string(), text::parse(&text))
    });
    let nets = (0..16).map(|seed| (format!("net {seed}"), random_net(&mut Random::new(seed))));
    let cases = written.chain(nets).enumerate().map(|(i, (name, program))| {
        let program = program.unwrap_or_else(|error| panic!("the case {name:?} is made wrongly: {error}"));
        let mut rng = Random::new(i as u64);
        let args = program.args().iter().map(|arg| argument(&mut rng, program.ty(arg.value))).collect();
        Case { runs: 2, ..case(format!("program: {name}"), program, args, false) }
    });
    cases.collect()
}

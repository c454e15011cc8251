use finetune_plugin_api::plan::{PlanOptions, peak};
use finetune_plugin_api::program::{Attrs, DType, TensorType, text};
use finetune_plugin_api::reference::{Rounding, Tensor, run_named};

use super::*;
use crate::autodiff::{Options, gradients};

const LAYERS: usize = 4;

/// Norm, two products, a gate and a product, several times; gradients of the products' weights.
fn feed_forward() -> (Program, usize) {
    let mut b = Builder::new();
    let ty = |shape: &[usize]| TensorType::new(DType::F32, shape);
    let mut x = b.input("x", ty(&[8, 4]));
    let one = b.param("norm", ty(&[4]));
    let mut wrt = Vec::new();
    for layer in 0..LAYERS {
        let mut weight = |name: &str, shape: &[usize]| {
            let weight = b.param(&format!("{layer}.{name}"), ty(shape));
            wrt.push(weight);
            weight
        };
        let [gate, up, down] =
            [("gate", [4, 6]), ("up", [4, 6]), ("down", [6, 4])].map(|(name, shape)| weight(name, &shape));
        let normed = b.apply(Op::RmsNorm, &[x, one], Attrs::none().float("eps", 1e-5));
        let (gate, up) = (b.matmul(normed, gate, false, false), b.matmul(normed, up, false, false));
        let inner = b.apply(Op::Gated, &[gate, up], Attrs::none().word("kind", "silu"));
        let change = b.matmul(inner, down, false, false);
        x = b.add(x, change);
    }
    let loss = b.sum_squares(x);
    let forward = b.nodes().len();
    for (i, gradient) in gradients(&mut b, loss, &wrt, Options::default()).unwrap().into_iter().enumerate() {
        b.output(&format!("d{i}"), gradient);
    }
    (b.finish().unwrap(), forward)
}

fn count(program: &Program, op: Op) -> usize {
    program.nodes().iter().filter(|node| node.op == op).count()
}

/// Norms and gates are computed twice, products once, and less memory is needed.
#[test]
fn norms_and_gates_are_computed_again() {
    let (program, forward) = feed_forward();
    let again = recompute(&program, forward).unwrap();
    assert_eq!((count(&program, Op::RmsNorm), count(&again, Op::RmsNorm)), (LAYERS, 2 * LAYERS));
    assert_eq!((count(&program, Op::Gated), count(&again, Op::Gated)), (LAYERS, 2 * LAYERS));
    assert_eq!(count(&program, Op::Matmul), count(&again, Op::Matmul));
    let arena = |program: &Program| peak(program, &PlanOptions::default()).arena;
    assert!(arena(&again) < arena(&program), "{} and {}", arena(&again), arena(&program));
    assert_eq!(text::parse(&again.to_string()).unwrap(), again);
}

/// The same numbers to the last bit.
#[test]
fn nothing_else_changes() {
    let (program, forward) = feed_forward();
    let again = recompute(&program, forward).unwrap();
    let number = |i: usize| ((i * 37 % 23) as f64 - 11.0) / 8.0;
    let tensor = |arg: &finetune_plugin_api::program::Arg| {
        let ty = program.ty(arg.value);
        let values = (0..ty.elements()).map(|i| number(i + arg.name.len())).collect();
        (arg.name.clone(), Tensor::float(DType::F32, &ty.shape, values).unwrap())
    };
    let args: Vec<_> = program.args().iter().map(tensor).collect();
    let outcomes = [&program, &again].map(|program| run_named(program, &args, Rounding::Storage).unwrap());
    for output in program.outputs() {
        let [before, after] = [(&program, &outcomes[0]), (&again, &outcomes[1])]
            .map(|(program, outcome)| outcome.output(program, &output.name).unwrap().floats().to_vec());
        assert_eq!(before, after, "{}", output.name);
    }
}

/// What would have to be kept for it in its place is not computed again; nor is what ends the run.
#[test]
fn a_value_is_kept_where_nothing_is_won() {
    let mut b = Builder::new();
    let ty = TensorType::new(DType::F32, &[4]);
    let (x, w) = (b.input("x", ty.clone()), b.input("w", ty));
    // Nothing of the backward pass reads the product.
    let product = b.mul(x, w);
    let lost = b.cast(product, DType::Bf16);
    let kept = b.cast(x, DType::Bf16);
    let loss = b.sum_squares(lost);
    let forward = b.nodes().len();
    let (first, second) = (b.neg(lost), b.neg(kept));
    b.output("first", first);
    b.output("second", second);
    b.output("kept", kept);
    b.output("loss", loss);
    let program = b.finish().unwrap();
    assert_eq!(recompute(&program, forward).unwrap(), program);
}

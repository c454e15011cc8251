use super::*;
use crate::conformance::{Case, Random, Variant, op_cases, variants};
use crate::program::table::{Class, TABLE};
use crate::program::{Builder, DType, Op, lower, text};

fn args(case: &Case) -> Vec<Tensor> {
    case.args.iter().map(|(_, tensor)| tensor.clone()).collect()
}

/// Equal to 1e-9 of the largest element; infinities and NaN in the same places.
fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
    assert_eq!(got.ty(), want.ty(), "{what}");
    let Values::Float(values) = want.values() else {
        assert_eq!(got, want, "{what}");
        return;
    };
    let finite = values.iter().map(|x| x.abs()).filter(|x| x.is_finite());
    let allowed = 1e-9 * finite.fold(1e-3, f64::max);
    for (i, (got, want)) in got.floats().iter().zip(values).enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= allowed;
        assert!(same, "{what}: element {i} is {got}, not {want}");
    }
}

/// Two derivations of each composite, one as a formula here and one in core ops, must agree.
#[test]
fn decompositions_mean_what_their_ops_mean() {
    for def in TABLE.iter().filter(|def| def.class == Class::Composite) {
        for case in op_cases(def.op) {
            let lowered = lower(&case.program, &|_| false).unwrap();
            assert!(lowered.nodes().iter().all(|node| node.op.def().class == Class::Core), "{}", case.name);
            let whole = run(&case.program, &args(&case), Rounding::None).unwrap();
            let parts = run(&lowered, &args(&case), Rounding::None).unwrap();
            for (got, want) in parts.outputs.iter().zip(&whole.outputs) {
                assert_close(got, want, &case.name);
            }
        }
    }
}

/// Lowering one composite alone leaves the others, also those that a decomposition is written with.
#[test]
fn lowering_stops_at_native_composites() {
    let case = op_cases(Op::LinearCrossEntropy).remove(0);
    let lowered = lower(&case.program, &|node| node.op == Op::CrossEntropy).unwrap();
    assert!(lowered.nodes().iter().any(|node| node.op == Op::CrossEntropy));
    let (whole, parts) = (run(&case.program, &args(&case), Rounding::None).unwrap(), {
        run(&lowered, &args(&case), Rounding::None).unwrap()
    });
    for (got, want) in parts.outputs.iter().zip(&whole.outputs) {
        assert_close(got, want, &case.name);
    }
}

/// One op on these operands, unrounded.
fn apply(op: Op, operands: &[Tensor], attrs: &crate::program::Attrs) -> Vec<Tensor> {
    let mut b = Builder::new();
    let inputs: Vec<_> =
        operands.iter().enumerate().map(|(i, x)| b.input(&format!("{i}"), x.ty().clone())).collect();
    for (i, result) in b.push(op, &inputs, attrs.clone()).into_iter().enumerate() {
        if b.error().is_none() && i < op.def().result_count(attrs) {
            b.output(&format!("{i}"), result);
        }
    }
    let program = b.finish().unwrap();
    run(&program, operands, Rounding::None).unwrap().outputs
}

/// The derivative, along a random direction of one operand, of the sum of a result weighted by `dy`, by
/// central differences; against the same of a gradient.
fn check_gradient(
    what: &str,
    forward: &dyn Fn(&[Tensor]) -> Vec<f64>,
    operands: &[Tensor],
    operand: usize,
    gradient: &Tensor,
    dy: &[f64],
) {
    let mut rng = Random::new(11);
    for _ in 0..2 {
        let direction: Vec<f64> = gradient.floats().iter().map(|_| rng.between(-1.0, 1.0)).collect();
        let step = 1e-5;
        let [ahead, behind] = [step, -step].map(|step| {
            let mut moved = operands.to_vec();
            let along = moved[operand].floats_mut().iter_mut().zip(&direction);
            along.for_each(|(x, d)| *x += step * d);
            forward(&moved).iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>()
        });
        let slope = (ahead - behind) / (2.0 * step);
        let products = gradient.floats().iter().zip(&direction).map(|(g, d)| g * d);
        let claimed: f64 = products.clone().sum();
        let scale: f64 = products.map(f64::abs).sum::<f64>().max(1.0);
        let error = (slope - claimed).abs() / scale;
        assert!(error < 1e-6, "{what}, operand {operand}: slope {slope}, gradient gives {claimed}");
    }
}

/// Variants in f32 that are small enough to be differentiated often.
fn small(op: Op) -> Vec<Variant> {
    let is_small = |variant: &Variant| {
        let types = variant.types();
        types[0].dtype == DType::F32
            && types.iter().map(TensorType::elements).sum::<usize>() < 1500
            && !variant.label.starts_with("far out")
    };
    let small: Vec<_> = variants(op).into_iter().filter(is_small).collect();
    assert!(!small.is_empty(), "{}", op.name());
    small
}

/// (gradient op, forward op, how many of its first operands are the forward's, position of dy)
const GRADIENTS: [(Op, Op, usize, usize); 5] = [
    (Op::RmsNormGrad, Op::RmsNorm, 2, 2),
    (Op::LayerNormGrad, Op::LayerNorm, 2, 2),
    (Op::ActivationGrad, Op::Activation, 1, 1),
    (Op::GatedGrad, Op::Gated, 2, 2),
    (Op::AttentionGrad, Op::Attention, 3, 5),
];

#[test]
fn gradient_ops_agree_with_finite_differences() {
    for (grad, forward_op, differentiated, dy_at) in GRADIENTS {
        for variant in small(grad) {
            let segments = forward_op == Op::Attention && variant.attrs.get_bool("segments");
            let dy_at = dy_at + usize::from(segments);
            let dy = variant.operands[dy_at].floats().to_vec();
            let mut operands = variant.operands[..dy_at].to_vec();
            if forward_op == Op::LayerNorm {
                operands.push(operands[1].clone());
            }
            let mut all = variant.operands.clone();
            if forward_op == Op::Attention && variant.attrs.get_bool("lse") {
                // Not rounded as in the variant: the gradient is then as exact as the differences.
                all.truncate(dy_at + 1);
                all.extend(apply(forward_op, &operands, &variant.attrs));
            }
            let gradients = apply(grad, &all, &variant.attrs);
            let forward =
                |operands: &[Tensor]| apply(forward_op, operands, &variant.attrs)[0].floats().to_vec();
            for (operand, gradient) in gradients.iter().enumerate() {
                assert!(operand < differentiated || forward_op == Op::LayerNorm);
                let what = format!("{} {}", grad.name(), variant.label);
                check_gradient(&what, &forward, &operands, operand, gradient, &dy);
            }
        }
    }
}

#[test]
fn softmax_grad_agrees_with_finite_differences() {
    let mut rng = Random::new(3);
    let none = crate::program::Attrs::none();
    let x = rng.floats(DType::F32, &[3, 7], -2.0, 2.0);
    let dy = rng.floats(DType::F32, &[3, 7], -2.0, 2.0);
    let y = apply(Op::Softmax, std::slice::from_ref(&x), &none).remove(0);
    let dx = apply(Op::SoftmaxGrad, &[y, dy.clone()], &none).remove(0);
    let forward = |operands: &[Tensor]| apply(Op::Softmax, operands, &none)[0].floats().to_vec();
    check_gradient("softmax_grad", &forward, &[x], 0, &dx, dy.floats());
}

/// The losses give their gradients beside the loss; the first is by logits or by x, the second by weight.
#[test]
fn gradients_of_losses_agree_with_finite_differences() {
    for op in [Op::CrossEntropy, Op::LinearCrossEntropy] {
        for variant in small(op) {
            let results = apply(op, &variant.operands, &variant.attrs);
            let forward = |operands: &[Tensor]| apply(op, operands, &variant.attrs)[0].floats().to_vec();
            for (operand, gradient) in results[1..].iter().enumerate() {
                let what = format!("{} {}", op.name(), variant.label);
                check_gradient(&what, &forward, &variant.operands, operand, gradient, &[1.0]);
            }
        }
    }
}

/// Rope turned back and dropout applied to dy are said to be gradients.
#[test]
fn rope_and_dropout_are_gradients_of_themselves() {
    for op in [Op::Rope, Op::Dropout] {
        for variant in small(op) {
            let mut rng = Random::new(5);
            let dy = rng.floats(DType::F32, &variant.operands[0].ty().shape, -1.0, 1.0);
            let mut back = variant.operands.clone();
            back[0] = dy.clone();
            let attrs = match op {
                Op::Rope => crate::program::Attrs::none()
                    .bool("interleaved", variant.attrs.get_bool("interleaved"))
                    .bool("inverse", !variant.attrs.get_bool("inverse"))
                    .float("scale", variant.attrs.get_float("scale")),
                _ => variant.attrs.clone(),
            };
            let dx = apply(op, &back, &attrs).remove(0);
            let forward = |operands: &[Tensor]| apply(op, operands, &variant.attrs)[0].floats().to_vec();
            let what = format!("{} {}", op.name(), variant.label);
            check_gradient(&what, &forward, &variant.operands, 0, &dx, dy.floats());
        }
    }
}

const SWAP: &str = "finetune.program 1\n\
    %0 = input \"x\" : f32[2]\n\
    %1 = state \"a\" : f32[2]\n\
    %2 = state \"b\" : f32[2]\n\
    %3 = add(%0, %1) : f32[2]\n\
    update %1 = %2\n\
    update %2 = %3\n\
    output \"old\" = %1\n\
    end\n";

fn numbers(values: &[f64]) -> Tensor {
    Tensor::float(DType::F32, &[values.len()], values.to_vec()).unwrap()
}

/// Updates take effect together at the end: every read gives the value from before the run.
#[test]
fn updates_happen_at_the_end() {
    let program = text::parse(SWAP).unwrap();
    let args = [("b", numbers(&[5.0, 6.0])), ("x", numbers(&[1.0, 2.0])), ("a", numbers(&[3.0, 4.0]))];
    let outcome = run_named(&program, &args, Rounding::Storage).unwrap();
    assert_eq!(outcome.output(&program, "old").unwrap().floats(), [3.0, 4.0]);
    assert_eq!(outcome.state(&program, "a").unwrap().floats(), [5.0, 6.0]);
    assert_eq!(outcome.state(&program, "b").unwrap().floats(), [4.0, 6.0]);
}

#[test]
fn wrong_arguments_are_said() {
    let program = text::parse(SWAP).unwrap();
    let two = || numbers(&[1.0, 2.0]);
    let message = |args: &[Tensor]| run(&program, args, Rounding::None).unwrap_err().to_string();
    assert_eq!(message(&[two()]), "the program takes 3 arguments; 1 are given");
    let wrong = message(&[two(), numbers(&[1.0]), two()]);
    assert_eq!(wrong, "argument \"a\" is given as f32[1]; the program takes f32[2]");
    let named = |args: &[(&str, Tensor)]| run_named(&program, args, Rounding::None).unwrap_err().to_string();
    assert_eq!(named(&[("x", two()), ("a", two())]), "argument \"b\" is missing");
    let extra = named(&[("x", two()), ("a", two()), ("b", two()), ("c", two())]);
    assert_eq!(extra, "\"c\" is no argument of the program, or is given twice");
}

/// Without rounding a third is a third; with it, a bf16.
#[test]
fn rounding_follows_the_element_type() {
    let text = "finetune.program 1\n%0 = constant() {dtype = bf16, value = 0.3333333333333333} : bf16[]\n\
        output \"third\" = %0\nend\n";
    let program = text::parse(text).unwrap();
    let third = |rounding| run(&program, &[], rounding).unwrap().outputs[0].floats()[0];
    assert_eq!(third(Rounding::None), 0.333_333_333_333_333_3);
    assert_eq!(third(Rounding::Storage), 0.333_984_375);
}

//! Gradients against torch's, in float64.

use std::collections::BTreeSet;

use finetune_plugin_api::program::{Builder, Op, ValueId};
use finetune_plugin_api::reference::{Rounding, Tensor, run};

use crate::autodiff::rules::{RULES, Rule};
use crate::autodiff::{Options, gradients};
use crate::op_goldens::{Entry, read};

const TOLERANCE: f64 = 1e-9;

/// The names of the inputs with a golden gradient, and those gradients. Losses give theirs as results.
fn expected(entry: &Entry) -> Vec<(String, Tensor)> {
    let given = match entry.op {
        Op::CrossEntropy => &[("logits", "dlogits")][..],
        Op::LinearCrossEntropy => &[("x", "dx"), ("weight", "dweight")],
        _ => return entry.gradients.clone(),
    };
    given.iter().map(|&(input, result)| (input.into(), entry.output(result).clone())).collect()
}

fn check(entry: &Entry, wanted: &[(String, Tensor)]) {
    let mut b = Builder::new();
    let mut args: Vec<Tensor> = entry.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
    let values: Vec<ValueId> =
        entry.inputs.iter().map(|(name, tensor)| b.input(name, tensor.ty().clone())).collect();
    let y = b.push(entry.op, &values, entry.attrs.clone())[0];
    let loss = match &entry.upstream[..] {
        [] => y,
        [(_, tensor)] => {
            args.push(tensor.clone());
            let upstream = b.input("upstream", tensor.ty().clone());
            let product = b.mul(y, upstream);
            b.sum_all(product)
        }
        more => panic!("{}: {} upstream gradients", entry.name, more.len()),
    };
    let of = |name: &str| values[entry.inputs.iter().position(|(known, _)| known == name).unwrap()];
    let wrt: Vec<ValueId> = wanted.iter().map(|(name, _)| of(name)).collect();
    let found = gradients(&mut b, loss, &wrt, Options::default()).unwrap();
    for ((name, _), value) in wanted.iter().zip(found) {
        b.output(name, value);
    }
    let program = b.finish().unwrap();
    let outcome = run(&program, &args, Rounding::None).unwrap();
    for ((name, wanted), found) in wanted.iter().zip(&outcome.outputs) {
        assert_eq!(wanted.ty(), found.ty(), "{}: {name}", entry.name);
        for (i, (&want, &have)) in wanted.floats().iter().zip(found.floats()).enumerate() {
            let near = (have - want).abs() <= TOLERANCE * want.abs().max(1.0);
            assert!(near, "{}: gradient of {name}, element {i}: {have}, torch has {want}", entry.name);
        }
    }
}

#[test]
fn gradients_are_those_of_torch() {
    let mut ops = BTreeSet::new();
    for entry in read() {
        let wanted = expected(&entry);
        if !wanted.is_empty() {
            check(&entry, &wanted);
            ops.insert(entry.op.name());
        }
    }
    // Gradients of the quantized ops are held against finite differences alone.
    let rules = RULES.iter().filter(|(_, rule)| !matches!(rule, Rule::None(_)));
    let unseen: Vec<_> = rules.map(|(op, _)| op.name()).filter(|name| !ops.contains(name)).collect();
    assert_eq!(unseen, ["cast", "dequantize", "quantized_matmul"]);
}

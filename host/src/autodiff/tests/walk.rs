//! Which ops the walk writes, and what it refuses.

use finetune_plugin_api::program::{Attrs, Builder, DType, Op, TensorType, ValueId, text};
use finetune_plugin_api::reference::{Rounding, Tensor, run};

use super::differences::{Check, Random, u32s};
use crate::autodiff::{AutodiffError, Options, gradients};

fn f32s(shape: &[usize]) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// A linear layer with an adapter of rank 2, and the loss of its squares.
fn adapted(b: &mut Builder) -> (ValueId, [ValueId; 4]) {
    let x = b.input("x", f32s(&[4, 3]));
    let weight = b.param("weight", f32s(&[5, 3]));
    let down = b.state("down", f32s(&[2, 3]));
    let up = b.state("up", f32s(&[5, 2]));
    let base = b.matmul(x, weight, false, true);
    let low = b.matmul(x, down, false, true);
    let change = b.matmul(low, up, false, true);
    let y = b.add(base, change);
    (b.sum_squares(y), [x, weight, down, up])
}

/// What is frozen costs nothing: the whole program is as one would write it by hand.
#[test]
fn an_adapter_gets_its_gradients_and_nothing_else_is_computed() {
    let mut b = Builder::new();
    let (loss, [_, _, down, up]) = adapted(&mut b);
    let found = gradients(&mut b, loss, &[down, up], Options::default()).unwrap();
    b.output("down", found[0]);
    b.output("up", found[1]);
    let expected = "finetune.program 1\n\
        %0 = input \"x\" : f32[4,3]\n\
        %1 = param \"weight\" : f32[5,3]\n\
        %2 = state \"down\" : f32[2,3]\n\
        %3 = state \"up\" : f32[5,2]\n\
        %4 = matmul(%0, %1) {transpose_b = true} : f32[4,5]\n\
        %5 = matmul(%0, %2) {transpose_b = true} : f32[4,2]\n\
        %6 = matmul(%5, %3) {transpose_b = true} : f32[4,5]\n\
        %7 = add(%4, %6) : f32[4,5]\n\
        %8 = sum_squares(%7) : f32[]\n\
        %9 = constant() {dtype = f32, value = 1.0} : f32[]\n\
        %10 = constant() {dtype = f32, value = 2.0} : f32[]\n\
        %11 = mul(%9, %10) : f32[]\n\
        %12 = broadcast(%11) {shape = [4,5]} : f32[4,5]\n\
        %13 = mul(%7, %12) : f32[4,5]\n\
        %14 = matmul(%13, %3) : f32[4,2]\n\
        %15 = matmul(%13, %5) {transpose_a = true} : f32[5,2]\n\
        %16 = matmul(%14, %0) {transpose_a = true} : f32[2,3]\n\
        output \"down\" = %16\n\
        output \"up\" = %15\n\
        end\n";
    assert_eq!(text::print(&b.finish().unwrap()), expected);
}

/// Each gradient that is asked for costs one product here, and the way down to it another.
#[test]
fn frozen_tensors_cost_no_op() {
    let products = |pick: fn([ValueId; 4]) -> Vec<ValueId>| {
        let mut b = Builder::new();
        let (loss, values) = adapted(&mut b);
        let before = b.nodes().len();
        gradients(&mut b, loss, &pick(values), Options::default()).unwrap();
        b.nodes()[before..].iter().filter(|node| node.op == Op::Matmul).count()
    };
    assert_eq!(products(|[_, _, _, up]| vec![up]), 1);
    assert_eq!(products(|[_, weight, _, _]| vec![weight]), 1);
    assert_eq!(products(|[_, _, down, _]| vec![down]), 2);
    assert_eq!(products(|[_, weight, down, up]| vec![weight, down, up]), 4);
    assert_eq!(products(|[x, _, _, _]| vec![x]), 3);
}

/// The loss's own gradient is 1: the op that gives loss and gradients together is followed by nothing, also
/// where a loss is the sum of several.
#[test]
fn a_cross_entropy_that_is_the_loss_is_not_scaled() {
    let mut b = Builder::new();
    let x = b.input("x", f32s(&[4, 3]));
    let weight = b.state("weight", f32s(&[5, 3]));
    let targets = b.input("targets", TensorType::new(DType::U32, &[4]));
    let weights = b.input("weights", f32s(&[4]));
    let results = b.push(Op::LinearCrossEntropy, &[x, weight, targets, weights], Attrs::none());
    let before = b.nodes().len();
    assert_eq!(gradients(&mut b, results[0], &[weight], Options::default()).unwrap(), [results[2]]);
    assert_eq!(b.nodes().len(), before);

    let more = b.push(Op::LinearCrossEntropy, &[x, weight, targets, weights], Attrs::none());
    let sum = b.add(results[0], more[0]);
    let before = b.nodes().len();
    let found = gradients(&mut b, sum, &[x, weight], Options::default()).unwrap();
    let added: Vec<Op> = b.nodes()[before..].iter().map(|node| node.op).collect();
    assert_eq!(added, [Op::Constant, Op::Add, Op::Add]);
    assert_eq!(found.len(), 2);
}

/// A joint projection that is sliced gets its gradient by one concatenation, whatever the order of the slices;
/// anything else is padded and added.
#[test]
fn slices_that_make_up_the_whole_are_joined() {
    let moves = |slices: &[(usize, usize)], whole_too: bool| {
        let mut b = Builder::new();
        let x = b.state("x", f32s(&[2, 6]));
        let mut loss = b.constant(0.0, DType::F32);
        for &(start, size) in slices {
            let part = b.slice(x, &[0, start], &[2, size]);
            let part = b.exp(part);
            let part = b.sum_all(part);
            loss = b.add(loss, part);
        }
        if whole_too {
            let rest = b.sum_squares(x);
            loss = b.add(loss, rest);
        }
        let before = b.nodes().len();
        gradients(&mut b, loss, &[x], Options::default()).unwrap();
        let added = b.nodes()[before..].iter().map(|node| node.op);
        let moves: Vec<Op> = added.filter(|op| matches!(op, Op::Pad | Op::Concat | Op::Add)).collect();
        moves
    };
    assert_eq!(moves(&[(0, 2), (2, 3), (5, 1)], false), [Op::Concat]);
    assert_eq!(moves(&[(5, 1), (0, 2), (2, 3)], false), [Op::Concat]);
    assert_eq!(moves(&[(0, 2), (2, 3)], false), [Op::Pad, Op::Pad, Op::Add]);
    assert_eq!(moves(&[(0, 2)], false), [Op::Pad]);
    // The other use comes first on the way back.
    assert_eq!(moves(&[(0, 3), (3, 3)], true), [Op::Pad, Op::Add, Op::Pad, Op::Add]);
    assert_eq!(moves(&[(0, 4), (2, 4)], false), [Op::Pad, Op::Pad, Op::Add]);
}

/// However many read the joined gradient, it is joined once: by a rule that reads it twice, for a sum, and as
/// a result.
#[test]
fn slices_are_joined_only_once() {
    let mut b = Builder::new();
    let x = b.state("x", f32s(&[4, 6]));
    let weight = b.param("weight", f32s(&[6]));
    let bias = b.state("bias", TensorType::new(DType::Bf16, &[6]));
    let y = b.apply(Op::LayerNorm, &[x, weight, bias], Attrs::none().float("eps", 1e-5));
    let (left, right) = (b.slice(y, &[0, 0], &[4, 2]), b.slice(y, &[0, 2], &[4, 4]));
    let (left, right) = (b.sum_squares(left), b.sum_squares(right));
    let loss = b.add(left, right);
    let before = b.nodes().len();
    let found = gradients(&mut b, loss, &[x, bias, y, y], Options::default()).unwrap();
    assert_eq!(found[2], found[3]);
    assert_eq!(b.nodes()[before..].iter().filter(|node| node.op == Op::Concat).count(), 1);
}

/// A tied embedding's rows are added to the head's gradient where it lies, not to a table of zeros.
#[test]
fn a_tied_embedding_needs_no_second_table() {
    let mut b = Builder::new();
    let table = b.state("table", f32s(&[5, 3]));
    let ids = b.input("ids", TensorType::new(DType::U32, &[4]));
    let weights = b.input("weights", f32s(&[4]));
    let x = b.apply(Op::Gather, &[table, ids], Attrs::none());
    let results = b.push(Op::LinearCrossEntropy, &[x, table, ids, weights], Attrs::none());
    let before = b.nodes().len();
    let found = gradients(&mut b, results[0], &[table], Options::default()).unwrap();
    let [added] = &b.nodes()[before..] else { panic!("{} ops", b.nodes().len() - before) };
    assert_eq!((added.op, &added.operands[..]), (Op::ScatterAdd, &[results[2], ids, results[1]][..]));
    assert_eq!(added.results, found);
}

#[test]
fn the_log_sum_exp_is_switched_on_only_where_it_is_wanted_and_given() {
    for (attention_lse, wanted) in [(true, true), (true, false), (false, true)] {
        let mut b = Builder::new();
        let q = b.state("q", f32s(&[1, 3, 2, 4]));
        let k = b.param("k", f32s(&[1, 3, 2, 4]));
        let bounds = b.input("bounds", TensorType::new(DType::U32, &[1]));
        let other = b.state("other", f32s(&[1, 3, 2, 4]));
        let first = if wanted { q } else { k };
        let attrs = Attrs::none().float("scale", 0.5);
        let out = b.apply(Op::Attention, &[first, k, k, bounds, bounds], attrs);
        let out = b.mul(out, other);
        let loss = b.sum_all(out);
        let wrt = if wanted { vec![other, q] } else { vec![other] };
        gradients(&mut b, loss, &wrt, Options { attention_lse }).unwrap();
        let program = b.finish().unwrap();
        let switched = program.nodes().iter().filter_map(|node| match node.op {
            Op::Attention | Op::AttentionGrad => Some(node.attrs.get_bool("lse")),
            _ => None,
        });
        assert_eq!(switched.collect::<Vec<_>>(), vec![attention_lse && wanted; 1 + usize::from(wanted)]);
        assert_eq!(text::parse(&program.to_string()).unwrap(), program);
    }
}

/// A tensor that would be left as it is is named, and so are all others like it.
#[test]
fn an_unused_trainable_is_an_error() {
    let mut b = Builder::new();
    let (loss, [_, _, down, _]) = adapted(&mut b);
    let first = b.state("layers.7.unused", f32s(&[2]));
    let second = b.state("layers.8.unused", f32s(&[2]));
    b.neg(second);
    let error = gradients(&mut b, loss, &[first, down, second], Options::default()).unwrap_err();
    let names = vec!["\"layers.7.unused\"".to_string(), "\"layers.8.unused\"".into()];
    assert_eq!(error, AutodiffError::Unused { names });
    assert!(error.to_string().contains("does not depend on \"layers.7.unused\", \"layers.8.unused\""));
}

/// A value that reaches the loss only through integers has no gradient either.
#[test]
fn a_way_through_integers_is_no_way() {
    let mut b = Builder::new();
    let x = b.state("x", f32s(&[2]));
    let whole = b.cast(x, DType::U32);
    let back = b.cast(whole, DType::F32);
    let loss = b.sum_all(back);
    let error = gradients(&mut b, loss, &[x], Options::default()).unwrap_err();
    assert_eq!(error, AutodiffError::Unused { names: vec!["\"x\"".into()] });
}

/// What cannot be differentiated says which op, where, and why.
#[test]
fn an_op_without_a_rule_is_an_error_that_names_it() {
    let mut b = Builder::new();
    let x = b.state("x", f32s(&[2, 3]));
    b.set_place("layers.1.mlp");
    let y = b.softmax(x);
    let z = b.apply(Op::SoftmaxGrad, &[y, x], Attrs::none());
    b.set_place("head");
    let loss = b.sum_all(z);
    let message = gradients(&mut b, loss, &[x], Options::default()).unwrap_err().to_string();
    let expected =
        "op softmax_grad at op 1 (layers.1.mlp) cannot be differentiated: it is itself part of a gradient";
    assert!(message.starts_with(expected), "{message}");

    let mut b = Builder::new();
    let x = b.input("x", f32s(&[1, 2, 1, 4]));
    let positions = b.input("positions", TensorType::new(DType::U32, &[1, 2]));
    let frequencies = b.state("frequencies", f32s(&[2]));
    let y = b.apply(Op::Rope, &[x, positions, frequencies], Attrs::none());
    let loss = b.sum_all(y);
    let message = gradients(&mut b, loss, &[frequencies], Options::default()).unwrap_err().to_string();
    assert!(message.ends_with("its operand inv_freq has no gradient rule"), "{message}");

    let mut b = Builder::new();
    let logits = b.state("logits", f32s(&[2, 3]));
    let targets = b.input("targets", TensorType::new(DType::U32, &[2]));
    let weights = b.input("weights", f32s(&[2]));
    let results = b.push(Op::CrossEntropy, &[logits, targets, weights], Attrs::none());
    let loss = b.sum_all(results[1]);
    let message = gradients(&mut b, loss, &[logits], Options::default()).unwrap_err().to_string();
    assert!(message.contains("its result dlogits is read on the way to the loss"), "{message}");
}

#[test]
fn what_has_no_gradient_is_refused() {
    let mut b = Builder::new();
    let x = b.input("x", f32s(&[2]));
    let ids = b.input("ids", TensorType::new(DType::U32, &[2]));
    assert_eq!(gradients(&mut b, x, &[x], Options::default()), Err(AutodiffError::Loss(f32s(&[2]))));
    let loss = b.sum_all(x);
    let message = gradients(&mut b, loss, &[ids], Options::default()).unwrap_err().to_string();
    assert!(message.starts_with("\"ids\" is u32[2]; only values of float types"), "{message}");
    b.matmul(x, x, false, false);
    assert!(matches!(gradients(&mut b, loss, &[x], Options::default()), Err(AutodiffError::Program(_))));
}

/// A value between may be asked for together with what it comes from; the loss's own gradient is 1.
#[test]
fn intermediate_values_have_gradients() {
    let mut b = Builder::new();
    let x = b.input("x", f32s(&[]));
    let y = b.scale(x, 3.0);
    let loss = b.mul(y, y);
    let found = gradients(&mut b, loss, &[x, y, loss, x], Options::default()).unwrap();
    for (i, value) in found.into_iter().enumerate() {
        b.output(&i.to_string(), value);
    }
    let program = b.finish().unwrap();
    let two = Tensor::float(DType::F32, &[], vec![2.0]).unwrap();
    let outcome = run(&program, &[two], Rounding::None);
    let found: Vec<f64> = outcome.unwrap().outputs.iter().map(|tensor| tensor.floats()[0]).collect();
    assert_eq!(found, [36.0, 12.0, 1.0, 36.0]);
}

/// Two blocks with norms, rope, grouped attention, a gated layer, residual ways, dropout and a tied head: every
/// rule that a Llama needs, one after another.
#[test]
fn a_small_model_has_the_gradients_that_differences_give() {
    let mut random = Random::new(21);
    let (rows, hidden, heads, classes) = (4, 4, 2, 5);
    let mut args = vec![random.floats(&[classes, hidden]), random.floats(&[hidden])];
    for _ in 0..2 {
        args.extend([random.between(0.5, 1.5, &[hidden]), random.floats(&[2 * hidden, hidden])]);
        args.extend([
            random.floats(&[hidden, hidden]),
            random.floats(&[6, hidden]),
            random.floats(&[hidden, 3]),
        ]);
    }
    let first = args.len();
    let weights = Tensor::float(DType::F32, &[rows], vec![1.0, 1.0, 0.0, 1.0]).unwrap();
    args.extend([u32s(&[rows], &[0, 3, 1, 1]), u32s(&[rows], &[3, 1, 1, 4]), weights]);
    args.extend([random.between(0.2, 1.0, &[1]), u32s(&[1], &[0]), u32s(&[1], &[4])]);
    args.extend([u32s(&[1, rows], &[0, 1, 2, 3]), random.words(&[2]), u32s(&[], &[7])]);
    args.push(u32s(&[rows], &[0; 4]));
    let build = move |b: &mut Builder, x: &[ValueId]| {
        let &[ids, targets, weights, frequencies, start, valid, positions, seed, step, example] = &x[first..]
        else {
            panic!("{} arguments", x.len());
        };
        let eps = Attrs::none().float("eps", 1e-3);
        let mut h = b.apply(Op::Gather, &[x[0], ids], Attrs::none());
        for layer in x[2..first].chunks(5) {
            let &[norm, kv, out, gate_up, down] = layer else { panic!("5 tensors a layer") };
            let normed = b.apply(Op::RmsNorm, &[h, norm], eps.clone());
            let kv = b.matmul(normed, kv, false, true);
            let group = [1, rows, 2, 2];
            let k = b.slice(kv, &[0, 0], &[rows, hidden]);
            let v = b.slice(kv, &[0, hidden], &[rows, hidden]);
            let [q, k, v] = [normed, k, v].map(|value| b.reshape(value, &group));
            let [q, k] =
                [q, k].map(|value| b.apply(Op::Rope, &[value, positions, frequencies], Attrs::none()));
            let scale = Attrs::none().float("scale", (heads as f64).sqrt().recip());
            let mixed = b.apply(Op::Attention, &[q, k, v, start, valid], scale);
            let mixed = b.reshape(mixed, &[rows, hidden]);
            let mixed = b.matmul(mixed, out, false, true);
            let rate = Attrs::none().float("rate", 0.25).int("site", 1);
            let place = b.reshape(positions, &[rows]);
            let mixed = b.apply(Op::Dropout, &[mixed, seed, step, example, place], rate);
            h = b.add(h, mixed);
            let both = b.matmul(h, gate_up, false, true);
            let gate = b.slice(both, &[0, 0], &[rows, 3]);
            let up = b.slice(both, &[0, 3], &[rows, 3]);
            let gated = b.apply(Op::Gated, &[gate, up], Attrs::none().word("kind", "silu"));
            let back = b.matmul(gated, down, false, true);
            h = b.add(h, back);
        }
        let normed = b.apply(Op::RmsNorm, &[h, x[1]], eps);
        b.push(Op::LinearCrossEntropy, &[normed, x[0], targets, weights], Attrs::none())[0]
    };
    Check { args, frozen: vec![first + 2, first + 3], options: Options { attention_lse: true }, build }.run();
}

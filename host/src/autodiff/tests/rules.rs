//! Each rule, over its attributes and shapes, against finite differences.

use finetune_plugin_api::program::{Attrs, Builder, DType, Op, TensorType, ValueId};
use finetune_plugin_api::reference::{Rounding, Tensor, run};

use super::differences::{Check, Random, check, u32s};
use crate::autodiff::{Options, gradients};

type Build = fn(&mut Builder, &[ValueId]) -> ValueId;

#[test]
fn elementwise_of_one_operand() {
    let mut random = Random::new(2);
    let everywhere: [Build; 8] = [
        |b, x| b.neg(x[0]),
        |b, x| b.abs(x[0]),
        |b, x| b.exp(x[0]),
        |b, x| b.sin(x[0]),
        |b, x| b.cos(x[0]),
        |b, x| b.tanh(x[0]),
        |b, x| b.erf(x[0]),
        |b, x| {
            let wide = b.cast(x[0], DType::F32);
            b.cast(wide, DType::F16)
        },
    ];
    for build in everywhere {
        check(vec![random.floats(&[3, 4])], build);
    }
    let above_zero: [Build; 3] = [|b, x| b.log(x[0]), |b, x| b.sqrt(x[0]), |b, x| b.rsqrt(x[0])];
    for build in above_zero {
        check(vec![random.between(0.5, 3.0, &[3, 4])], build);
    }
}

#[test]
fn elementwise_of_two_operands() {
    let mut random = Random::new(3);
    let builds: [Build; 7] = [
        |b, x| b.add(x[0], x[1]),
        |b, x| b.sub(x[0], x[1]),
        |b, x| b.mul(x[0], x[1]),
        |b, x| b.div(x[0], x[1]),
        |b, x| b.apply(Op::Max, &[x[0], x[1]], Attrs::none()),
        |b, x| b.apply(Op::Min, &[x[0], x[1]], Attrs::none()),
        |b, x| {
            let cond = b.compare("lt", x[0], x[1]);
            let square = b.mul(x[0], x[0]);
            b.select(cond, square, x[1])
        },
    ];
    for build in builds {
        let args = vec![random.floats(&[3, 4]), random.between(0.5, 2.0, &[3, 4])];
        check(args, build);
    }
}

/// A value that is read several times, by the same op and by others, gets the sum.
#[test]
fn gradients_of_several_uses_add_up() {
    check(vec![Random::new(4).between(0.5, 2.0, &[2, 3])], |b, x| {
        let square = b.mul(x[0], x[0]);
        let quotient = b.div(square, x[0]);
        let sum = b.add(quotient, square);
        let sum = b.sub(sum, x[0]);
        let log = b.log(x[0]);
        b.mul(sum, log)
    });
}

/// Where operands are equal there is no derivative; the split is half and half, as torch's.
#[test]
fn equal_operands_of_max_and_min_share() {
    for op in [Op::Max, Op::Min] {
        let mut b = Builder::new();
        let ty = TensorType::new(DType::F32, &[1]);
        let (x, y) = (b.input("x", ty.clone()), b.input("y", ty));
        let most = b.apply(op, &[x, y], Attrs::none());
        let loss = b.sum_all(most);
        let found = gradients(&mut b, loss, &[x, y], Options::default()).unwrap();
        b.output("dx", found[0]);
        b.output("dy", found[1]);
        let program = b.finish().unwrap();
        let seven = Tensor::float(DType::F32, &[1], vec![7.0]).unwrap();
        let outcome = run(&program, &[seven.clone(), seven], Rounding::None).unwrap();
        assert_eq!(outcome.outputs.iter().map(|out| out.floats()[0]).collect::<Vec<_>>(), [0.5, 0.5]);
    }
}

#[test]
fn reductions() {
    let mut random = Random::new(5);
    for axes in [&[0][..], &[1], &[2], &[0, 2], &[0, 1, 2]] {
        check(vec![random.floats(&[2, 3, 4])], |b, x| b.reduce_sum(x[0], axes));
        check(vec![random.floats(&[2, 3, 4])], |b, x| b.reduce_max(x[0], axes));
    }
    check(vec![random.floats(&[2, 3])], |b, x| b.sum_squares(x[0]));
}

#[test]
fn moves_of_elements() {
    let mut random = Random::new(6);
    let builds: [Build; 5] = [
        |b, x| b.reshape(x[0], &[4, 3, 2]),
        |b, x| b.permute(x[0], &[2, 0, 1]),
        |b, x| b.slice(x[0], &[1, 0, 2], &[1, 3, 2]),
        |b, x| {
            let attrs = Attrs::none().ints("low", &[0, 1, 2]).ints("high", &[1, 0, 3]).float("value", 0.5);
            b.apply(Op::Pad, &[x[0]], attrs)
        },
        |b, x| b.permute(x[0], &[0, 1, 2]),
    ];
    for build in builds {
        check(vec![random.floats(&[2, 3, 4])], build);
    }
    for (from, to) in
        [(&[][..], &[2, 3][..]), (&[3], &[2, 3]), (&[2, 1], &[2, 3]), (&[1, 3, 1], &[2, 2, 3, 4])]
    {
        check(vec![random.floats(from)], |b, x| b.broadcast(x[0], to));
    }
    for axis in 0..2 {
        let shapes = if axis == 0 { [[1, 3], [2, 3], [4, 3]] } else { [[3, 1], [3, 2], [3, 4]] };
        check(shapes.iter().map(|shape| random.floats(shape)).collect(), |b, x| b.concat(x, axis));
    }
    check(vec![random.floats(&[2, 2])], |b, x| b.concat(&[x[0], x[0]], 1));
}

/// Slices of one value: side by side along either axis, with gaps, overlapping, and beside another use.
#[test]
fn several_slices_of_one_value() {
    let mut random = Random::new(16);
    let cuts: [&[([usize; 2], [usize; 2])]; 6] = [
        &[([0, 0], [3, 3]), ([0, 2], [3, 1])],
        &[([0, 2], [3, 2]), ([0, 0], [3, 2])],
        &[([2, 0], [1, 4]), ([0, 0], [2, 4])],
        &[([0, 0], [3, 1]), ([0, 3], [3, 1])],
        &[([0, 0], [2, 3]), ([1, 1], [2, 3]), ([0, 3], [1, 1])],
        &[([0, 0], [2, 2]), ([2, 2], [1, 2])],
    ];
    for cut in cuts {
        for whole_too in [false, true] {
            check(vec![random.floats(&[3, 4])], |b, x| {
                let mut sum = b.constant(0.0, DType::F32);
                for (start, size) in cut {
                    let part = b.slice(x[0], start, size);
                    let part = b.sum_squares(part);
                    sum = b.add(sum, part);
                }
                if whole_too {
                    let exp = b.exp(x[0]);
                    let exp = b.sum_squares(exp);
                    sum = b.add(sum, exp);
                }
                sum
            });
        }
    }
}

#[test]
fn products() {
    let mut random = Random::new(7);
    for batch in [&[][..], &[2], &[2, 3]] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let shape = |rows: usize, columns: usize, transposed: bool| {
                let last = if transposed { [columns, rows] } else { [rows, columns] };
                [batch, &last].concat()
            };
            let args = vec![random.floats(&shape(2, 3, ta)), random.floats(&shape(3, 4, tb))];
            check(args, |b, x| b.matmul(x[0], x[1], ta, tb));
        }
    }
}

#[test]
fn positions_at_run_time() {
    let mut random = Random::new(8);
    // 3 comes twice, 9 is taken as the last row.
    let indices = u32s(&[2, 2], &[3, 0, 3, 9]);
    check(vec![random.floats(&[5, 3]), indices.clone()], |b, x| b.apply(Op::Gather, x, Attrs::none()));
    check(vec![random.floats(&[5]), indices.clone()], |b, x| b.apply(Op::Gather, x, Attrs::none()));
    let args = vec![random.floats(&[5, 3]), indices, random.floats(&[2, 2, 3])];
    check(args, |b, x| b.apply(Op::ScatterAdd, x, Attrs::none()));
    // 9 is taken as the last start that fits.
    for (start, axis) in [(0, 0), (1, 1), (9, 0), (9, 1)] {
        let start = u32s(&[], &[start]);
        check(vec![random.floats(&[4, 5]), start.clone()], |b, x| {
            b.apply(Op::DynamicSlice, x, Attrs::none().int("axis", axis).int("size", 2))
        });
        let update = if axis == 0 { [2, 5] } else { [4, 2] };
        check(vec![random.floats(&[4, 5]), random.floats(&update), start], |b, x| {
            b.apply(Op::UpdateSlice, x, Attrs::none().int("axis", axis))
        });
    }
}

#[test]
fn softmax_and_norms() {
    let mut random = Random::new(9);
    check(vec![random.floats(&[2, 3, 5])], |b, x| b.softmax(x[0]));
    for shape in [&[6][..], &[4, 6], &[2, 3, 6]] {
        let eps = Attrs::none().float("eps", 1e-3);
        let args = vec![random.floats(shape), random.floats(&[6])];
        check(args, |b, x| b.apply(Op::RmsNorm, x, eps.clone()));
        let args = vec![random.floats(shape), random.floats(&[6]), random.floats(&[6])];
        check(args.clone(), |b, x| b.apply(Op::LayerNorm, x, eps.clone()));
        // Weight and bias of different types: the gradient op gives only weight's.
        check(args, |b, x| {
            let bias = b.cast(x[2], DType::F16);
            b.apply(Op::LayerNorm, &[x[0], x[1], bias], eps.clone())
        });
    }
}

#[test]
fn activations() {
    let mut random = Random::new(10);
    for kind in ["silu", "gelu", "gelu_tanh"] {
        let attrs = Attrs::none().word("kind", kind);
        check(vec![random.floats(&[3, 4])], |b, x| b.apply(Op::Activation, x, attrs.clone()));
        let args = vec![random.floats(&[3, 4]), random.floats(&[3, 4])];
        check(args, |b, x| b.apply(Op::Gated, x, attrs.clone()));
    }
}

#[test]
fn rotary_embedding() {
    let mut random = Random::new(11);
    for (channels, interleaved, inverse, scale) in
        [(4, false, false, 1.0), (4, true, false, 1.0), (6, false, true, 1.5), (6, true, true, 0.5)]
    {
        let positions = u32s(&[2, 3], &[0, 1, 2, 7, 8, 0]);
        let args = vec![random.floats(&[2, 3, 2, channels]), positions, random.between(0.1, 1.0, &[2])];
        let attrs = Attrs::none().bool("interleaved", interleaved).bool("inverse", inverse);
        let attrs = attrs.float("scale", scale);
        let build = |b: &mut Builder, x: &[ValueId]| b.apply(Op::Rope, x, attrs.clone());
        Check { args, frozen: vec![2], options: Options::default(), build }.run();
    }
}

/// With and without the log-sum-exp; grouped heads, windows, packed segments, caches, rows that see nothing.
#[test]
fn attention() {
    let mut random = Random::new(12);
    let segments = u32s(&[2, 4], &[0, 0, 1, 1, 3, 3, 3, 4]);
    // queries, heads, groups, start, valid, causal, window, segments
    let variants = [
        (4, 2, 2, [0, 0], [4, 4], true, 0, false),
        (4, 4, 2, [0, 0], [4, 2], true, 0, false),
        (4, 2, 1, [0, 0], [4, 3], true, 2, false),
        (4, 2, 1, [0, 0], [4, 4], true, 0, true),
        (2, 2, 1, [2, 1], [4, 3], true, 3, false),
        (3, 2, 2, [0, 0], [4, 2], false, 0, false),
        (4, 2, 1, [0, 0], [0, 4], true, 0, false),
    ];
    for (queries, heads, groups, start, valid, causal, window, packed) in variants {
        let mut args = vec![
            random.floats(&[2, queries, heads, 3]),
            random.floats(&[2, 4, groups, 3]),
            random.floats(&[2, 4, groups, 2]),
            u32s(&[2], &start),
            u32s(&[2], &valid),
        ];
        if packed {
            args.push(segments.clone());
        }
        let attrs = Attrs::none().float("scale", 0.6).bool("causal", causal).int("window", window);
        let attrs = attrs.bool("segments", packed);
        for (attention_lse, built_with) in [(false, false), (true, false), (false, true)] {
            let build = |b: &mut Builder, x: &[ValueId]| {
                b.push(Op::Attention, x, attrs.clone().bool("lse", built_with))[0]
            };
            Check { args: args.clone(), frozen: vec![], options: Options { attention_lse }, build }.run();
        }
    }
}

#[test]
fn dropout() {
    let mut random = Random::new(13);
    let args = vec![
        random.floats(&[3, 8]),
        random.words(&[2]),
        random.words(&[]),
        u32s(&[3], &[0, 1, 1]),
        u32s(&[3], &[5, 0, 1]),
    ];
    check(args, |b, x| b.apply(Op::Dropout, x, Attrs::none().float("rate", 0.4).int("site", 3)));
}

/// As the loss itself, and behind another factor.
#[test]
fn losses() {
    let mut random = Random::new(14);
    let targets = u32s(&[4], &[1, 0, 4, 9]);
    let weights = Tensor::float(DType::F32, &[4], vec![1.0, 0.0, 0.5, 2.0]).unwrap();
    let args = vec![random.floats(&[4, 5]), targets.clone(), weights.clone()];
    let build = |b: &mut Builder, x: &[ValueId]| b.push(Op::CrossEntropy, x, Attrs::none())[0];
    Check { args, frozen: vec![2], options: Options::default(), build }.run();
    let args = vec![random.floats(&[4, 3]), random.floats(&[5, 3]), targets, weights];
    let build = |b: &mut Builder, x: &[ValueId]| b.push(Op::LinearCrossEntropy, x, Attrs::none())[0];
    Check { args, frozen: vec![3], options: Options::default(), build }.run();
}

#[test]
fn quantized_weights() {
    let mut random = Random::new(15);
    for (bits, group) in [(4, 4), (8, 2)] {
        let columns = 2 * 32 / bits;
        let attrs = Attrs::none().int("bits", bits).int("group", group);
        let packed = random.words(&[3, 2]);
        let scales = random.between(0.01, 0.1, &[3, columns / group]);
        let biases = random.floats(&[3, columns / group]);
        let args = vec![packed.clone(), scales.clone(), biases.clone()];
        check(args, |b, x| b.apply(Op::Dequantize, x, attrs.clone()));
        for transpose in [true, false] {
            let x = random.floats(&[2, if transpose { columns } else { 3 }]);
            let args = vec![x, packed.clone(), scales.clone(), biases.clone()];
            let build = |b: &mut Builder, x: &[ValueId]| {
                let [scales, biases] = [x[2], x[3]].map(|value| {
                    let dtype = b.dtype(x[0]);
                    b.cast(value, dtype)
                });
                let attrs = attrs.clone().bool("transpose", transpose);
                b.apply(Op::QuantizedMatmul, &[x[0], x[1], scales, biases], attrs)
            };
            Check { args, frozen: vec![2, 3], options: Options::default(), build }.run();
        }
    }
}

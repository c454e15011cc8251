//! Random programs against the reference interpreter: views of views, values that share storage, state that
//! is read and updated. All numbers are small whole ones, which every type holds and every order of additions
//! sums exactly, so that results are equal and not only near.

mod common;

use finetune_plugin_api::conformance::Random;
use finetune_plugin_api::program::{Attrs, Builder, DType, Op, Program, TensorType, ValueId};
use finetune_plugin_api::reference::{Rounding, Tensor, run};
use proptest::prelude::*;

const SHAPE: [usize; 3] = [2, 3, 4];

/// Values between -8 and 8, so that products and sums of some of them stay whole numbers in bf16.
fn bounded(b: &mut Builder, x: ValueId) -> ValueId {
    let (low, high) = (b.full_like(-8.0, x), b.full_like(8.0, x));
    let x = b.apply(Op::Max, &[x, low], Attrs::none());
    b.apply(Op::Min, &[x, high], Attrs::none())
}

/// x [2, 3, 4] by way of views and back.
fn moved(b: &mut Builder, random: &mut Random, x: ValueId) -> ValueId {
    match random.below(6) {
        0 => {
            let turned = b.permute(x, &[2, 0, 1]);
            b.reshape(turned, &SHAPE)
        }
        1 => {
            let row = b.slice(x, &[1, 0, 2], &[1, 3, 1]);
            b.broadcast(row, &SHAPE)
        }
        2 => {
            let attrs = Attrs::none().ints("low", &[1, 0, 2]).ints("high", &[0, 1, 0]).float("value", 3.0);
            let wide = b.apply(Op::Pad, &[x], attrs);
            b.slice(wide, &[0, 1, 1], &SHAPE)
        }
        3 => {
            let turned = b.permute(x, &[0, 2, 1]);
            let both = b.concat(&[turned, turned], 2);
            let part = b.slice(both, &[0, 0, 2], &[2, 4, 3]);
            b.permute(part, &[0, 2, 1])
        }
        4 => {
            let rows = b.reshape(x, &[6, 4]);
            let index = b.iota(DType::U32, &[3, 2], 1);
            let part = b.apply(Op::Gather, &[rows, index], Attrs::none());
            b.reshape(part, &SHAPE)
        }
        _ => {
            let one = b.constant(1.0, DType::U32);
            let attrs = Attrs::none().int("axis", 2).int("size", 2);
            let part = b.apply(Op::DynamicSlice, &[x, one], attrs);
            let zero = b.constant(0.0, DType::U32);
            b.apply(Op::UpdateSlice, &[x, part, zero], Attrs::none().int("axis", 2))
        }
    }
}

fn computed(b: &mut Builder, random: &mut Random, x: ValueId, y: ValueId) -> ValueId {
    match random.below(8) {
        0 => b.neg(x),
        1 => b.add(x, y),
        2 => b.mul(x, y),
        3 => {
            let less = b.compare("lt", x, y);
            b.select(less, y, x)
        }
        4 => {
            let axis = random.below(3);
            let sum = b.reduce_sum(x, &[axis]);
            b.broadcast(sum, &SHAPE)
        }
        5 => {
            let product = b.matmul(x, y, false, true);
            let square = b.matmul(product, x, random.below(2) == 1, false);
            bounded(b, square)
        }
        6 => {
            let (rows, updates) = (b.reshape(x, &[6, 4]), b.reshape(y, &[6, 4]));
            let index = b.iota(DType::U32, &[3, 2], 0);
            let index = b.reshape(index, &[6]);
            let added = b.apply(Op::ScatterAdd, &[rows, index, updates], Attrs::none());
            b.reshape(added, &SHAPE)
        }
        _ => {
            let low = b.cast(x, DType::Bf16);
            let twice = b.add(low, low);
            b.cast(twice, DType::F32)
        }
    }
}

fn program(random: &mut Random) -> Program {
    let mut b = Builder::new();
    let ty = TensorType::new(DType::F32, &SHAPE);
    let mut values = vec![b.input("x", ty.clone())];
    for dtype in [DType::Bf16, DType::F16] {
        let half = b.param(dtype.name(), ty.with_dtype(dtype));
        values.push(b.cast(half, DType::F32));
    }
    let states: Vec<ValueId> = (0..3).map(|i| b.state(&format!("s{i}"), ty.clone())).collect();
    values.extend(&states);
    for _ in 0..random.below(20) + 1 {
        let (x, y) = (values[random.below(values.len())], values[random.below(values.len())]);
        let made = match random.below(3) {
            0 => moved(&mut b, random, x),
            _ => {
                let made = computed(&mut b, random, x, y);
                bounded(&mut b, made)
            }
        };
        values.push(made);
    }
    for &state in &states {
        b.update(state, values[random.below(values.len())]);
    }
    for i in 0..3 {
        b.output(&format!("o{i}"), values[random.below(values.len())]);
    }
    b.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_mean_what_the_reference_says(seed: u64) {
        let mut random = Random::new(seed);
        let program = program(&mut random);
        let args: Vec<Tensor> = program.args().iter().map(|arg| {
            let ty = program.ty(arg.value);
            let values = (0..ty.elements()).map(|_| random.below(17) as f64 - 8.0).collect();
            Tensor::float(ty.dtype, &ty.shape, values).unwrap()
        }).collect();
        let want = run(&program, &args, Rounding::Storage).unwrap();
        let want: Vec<Tensor> =
            want.outputs.into_iter().chain(want.states.into_iter().map(|(_, state)| state)).collect();
        let got = common::run(&mut common::open(2), &program, &args).unwrap();
        prop_assert!(got == want, "{program}\n{got:?}\n{want:?}");
    }
}

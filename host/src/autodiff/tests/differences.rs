//! Gradients against central finite differences of the reference interpreter, which then rounds nothing.

use finetune_plugin_api::program::{Builder, DType, Program, ValueId};
use finetune_plugin_api::reference::{self, Rounding, Tensor, Values};

use crate::autodiff::{Options, gradients};

/// In f64 the error of a difference of fourth order is about h^4 from the curve and 1e-16/h from rounding.
const STEP: f64 = 3e-5;
const TOLERANCE: f64 = 5e-9;

/// A random number generator (splitmix64): the same numbers in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number between `from` and `to`.
    pub fn number(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Numbers between `from` and `to`.
    pub fn between(&mut self, from: f64, to: f64, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.number(from, to)).collect();
        Tensor::float(DType::F32, shape, values).unwrap()
    }

    /// Numbers between -2 and 2.
    pub fn floats(&mut self, shape: &[usize]) -> Tensor {
        self.between(-2.0, 2.0, shape)
    }

    /// Any 32 bits.
    pub fn words(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::u32(shape, (0..count).map(|_| self.bits() as u32).collect()).unwrap()
    }
}

pub fn u32s(shape: &[usize], values: &[u32]) -> Tensor {
    Tensor::u32(shape, values.to_vec()).unwrap()
}

/// A function under test and where it is looked at.
pub struct Check<F> {
    pub args: Vec<Tensor>,
    /// Float arguments whose gradient is not asked for, and that stay f32.
    pub frozen: Vec<usize>,
    pub options: Options,
    pub build: F,
}

/// Holds the gradients of `build` at these arguments against finite differences: for all float arguments
/// together and for each alone, and for f32 and bf16 arguments.
pub fn check(args: Vec<Tensor>, build: impl Fn(&mut Builder, &[ValueId]) -> ValueId) {
    Check { args, frozen: Vec::new(), options: Options::default(), build }.run();
}

impl<F: Fn(&mut Builder, &[ValueId]) -> ValueId> Check<F> {
    pub fn run(&self) {
        for dtype in [DType::F32, DType::Bf16] {
            let all: Vec<usize> = (0..self.args.len()).filter(|&i| self.wanted(i)).collect();
            let expected: Vec<Vec<f64>> = all.iter().map(|&i| self.differences(i, dtype)).collect();
            self.compare(&all, &expected, dtype);
            for (&i, expected) in all.iter().zip(&expected).filter(|_| all.len() > 1) {
                self.compare(&[i], std::slice::from_ref(expected), dtype);
            }
        }
    }

    fn wanted(&self, i: usize) -> bool {
        self.args[i].ty().dtype.is_float() && !self.frozen.contains(&i)
    }

    fn compare(&self, wrt: &[usize], expected: &[Vec<f64>], dtype: DType) {
        let (program, args) = self.program(wrt, dtype);
        let outcome = reference::run(&program, &args, Rounding::None).unwrap();
        for ((&i, expected), found) in wrt.iter().zip(expected).zip(&outcome.outputs[1..]) {
            for (at, (&found, &expected)) in found.floats().iter().zip(expected).enumerate() {
                let near = (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0);
                assert!(
                    near,
                    "argument {i} ({dtype}), element {at}: {found}, by differences {expected}\n{program}"
                );
            }
        }
    }

    /// The slope of the loss along each element of argument `i`.
    fn differences(&self, i: usize, dtype: DType) -> Vec<f64> {
        let (program, mut args) = self.program(&[], dtype);
        let mut loss_at = |at: usize, value: f64| {
            args[i].floats_mut()[at] = value;
            reference::run(&program, &args, Rounding::None).unwrap().outputs[0].floats()[0]
        };
        let centre = self.args[i].floats();
        let slope = |(at, &x): (usize, &f64)| {
            let mut across = |step: f64| loss_at(at, x + step) - loss_at(at, x - step);
            let (near, far) = (across(STEP), across(2.0 * STEP));
            loss_at(at, x);
            (8.0 * near - far) / (12.0 * STEP)
        };
        centre.iter().enumerate().map(slope).collect()
    }

    /// The sum of the function's elements, each times a random weight, and its gradients; and the arguments.
    fn program(&self, wrt: &[usize], dtype: DType) -> (Program, Vec<Tensor>) {
        let mut b = Builder::new();
        let mut args = Vec::new();
        for (i, arg) in self.args.iter().enumerate() {
            let mut ty = arg.ty().clone();
            if self.wanted(i) {
                ty.dtype = dtype;
            }
            args.push(Tensor::new(ty, arg.values().clone()).unwrap());
        }
        let values: Vec<ValueId> =
            args.iter().enumerate().map(|(i, arg)| b.input(&format!("x{i}"), arg.ty().clone())).collect();
        let y = (self.build)(&mut b, &values);
        let y = b.cast(y, DType::F32);
        let weights = Random::new(99).floats(&b.shape(y));
        let upstream = b.input("upstream", weights.ty().clone());
        args.push(weights);
        let weighted = b.mul(y, upstream);
        let loss = b.sum_all(weighted);
        b.output("loss", loss);
        let wrt: Vec<ValueId> = wrt.iter().map(|&i| values[i]).collect();
        let found = gradients(&mut b, loss, &wrt, self.options).unwrap();
        for (i, (&gradient, &value)) in found.iter().zip(&wrt).enumerate() {
            assert_eq!(b.ty(gradient), b.ty(value));
            b.output(&format!("d{i}"), gradient);
        }
        (b.finish().unwrap(), args)
    }
}

/// A finite difference must not be taken for granted: a wrong gradient has to fail.
#[test]
#[should_panic(expected = "by differences")]
fn a_wrong_gradient_is_seen() {
    let args = vec![Random::new(1).floats(&[3])];
    let check = Check {
        args,
        frozen: vec![],
        options: Options::default(),
        build: |b: &mut Builder, x: &[ValueId]| b.tanh(x[0]),
    };
    let mut expected = check.differences(0, DType::F32);
    expected[2] += 1e-6;
    check.compare(&[0], &[expected], DType::F32);
}

/// Values of a float tensor type other than f32 reach the interpreter unrounded.
#[test]
fn bf16_arguments_are_not_rounded_here() {
    let tensor = Tensor::float(DType::Bf16, &[1], vec![1.0 + 1e-9]).unwrap();
    assert_eq!(tensor.values(), &Values::Float(vec![1.0 + 1e-9]));
}

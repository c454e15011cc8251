//! The accumulate and apply programs on the reference interpreter.

use finetune_plugin_api::program::{Arg, text};
use finetune_plugin_api::reference::{Outcome, Rounding, Tensor, run_named};

use super::*;
use crate::op_goldens;

fn scalar(value: f64) -> Tensor {
    Tensor::float(DType::F32, &[], vec![value]).unwrap()
}

/// What a step's programs share, by name.
struct Run {
    program: Program,
    adamw: AdamW,
    state: Vec<(String, Tensor)>,
}

impl Run {
    fn new(tensors: &[(&str, Tensor)], adamw: AdamW) -> Run {
        let trainables: Vec<Trainable> = tensors
            .iter()
            .map(|(name, tensor)| Trainable { name: (*name).into(), shape: tensor.ty().shape.clone() })
            .collect();
        let program = apply_program(&trainables, &adamw).unwrap();
        let of = |role: Role| program.args().iter().filter(move |arg| arg.role == role);
        let zeros = |arg: &Arg| Tensor::zeros(program.ty(arg.value)).unwrap();
        let state: Vec<_> = of(Role::State).map(|arg| (arg.name.clone(), zeros(arg))).collect();
        assert_eq!(of(Role::Input).count(), 4);
        let mut run = Run { program, adamw, state };
        for (name, tensor) in tensors {
            run.set(name, tensor.clone());
        }
        run
    }

    fn set(&mut self, name: &str, tensor: Tensor) {
        let (_, slot) = self.state.iter_mut().find(|(known, _)| known == name).unwrap();
        assert_eq!(slot.ty(), tensor.ty());
        *slot = tensor;
    }

    fn get(&self, name: &str) -> &[f64] {
        self.state.iter().find(|(known, _)| known == name).unwrap().1.floats()
    }

    /// One step; keeps the state after it and returns loss and norm.
    fn step(&mut self, step: u64, lr: f64, tokens: f64) -> (f64, f64) {
        let correction = |beta: f64| scalar(1.0 - beta.powi(step as i32));
        let mut args = self.state.clone();
        args.push((input::INVERSE_TOKENS.into(), scalar(1.0 / tokens)));
        args.push((input::LR.into(), scalar(lr)));
        args.push((input::CORRECTION1.into(), correction(self.adamw.beta1)));
        args.push((input::CORRECTION2.into(), correction(self.adamw.beta2)));
        let outcome = run_named(&self.program, &args, Rounding::None).unwrap();
        self.keep(&outcome);
        let read = |name: &str| outcome.output(&self.program, name).unwrap().floats()[0];
        (read(output::LOSS), read(output::GRAD_NORM))
    }

    fn keep(&mut self, outcome: &Outcome) {
        for (name, tensor) in &mut self.state {
            *tensor = outcome.state(&self.program, name).unwrap().clone();
        }
    }
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, expected {expected}");
    }
}

/// AdamW and clipping as in their papers and torch's documentation, on plain numbers.
struct Plain {
    adamw: AdamW,
    tensors: Vec<[Vec<f64>; 3]>,
}

impl Plain {
    fn step(&mut self, step: i32, lr: f64, tokens: f64, sums: &[Vec<f64>]) -> f64 {
        let AdamW { beta1, beta2, eps, weight_decay, clip } = self.adamw;
        let norm = sums.iter().flatten().map(|g| (g / tokens) * (g / tokens)).sum::<f64>().sqrt();
        let coefficient = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        for ([param, m, v], sums) in self.tensors.iter_mut().zip(sums) {
            for i in 0..param.len() {
                let g = sums[i] / tokens * coefficient;
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let m_hat = m[i] / (1.0 - beta1.powi(step));
                let v_hat = v[i] / (1.0 - beta2.powi(step));
                param[i] -= lr * weight_decay * param[i];
                param[i] -= lr * m_hat / (v_hat.sqrt() + eps);
            }
        }
        norm
    }
}

/// Several steps over two tensors, without clipping, with one that never bites and with one that always does.
#[test]
fn steps_are_those_of_a_plain_adamw() {
    let start = [vec![0.5, -1.0, 2.0], vec![1.5, 0.25]];
    for clip in [None, Some(1e6), Some(0.01)] {
        let adamw = AdamW { beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.1, clip };
        let tensor = |values: &[f64]| Tensor::float(DType::F32, &[values.len()], values.to_vec()).unwrap();
        let mut run = Run::new(&[("a", tensor(&start[0])), ("b", tensor(&start[1]))], adamw);
        let fresh = |values: &Vec<f64>| [values.clone(), vec![0.0; values.len()], vec![0.0; values.len()]];
        let mut plain = Plain { adamw, tensors: start.iter().map(fresh).collect() };
        for step in 1..=4 {
            let (lr, tokens, s) = (0.1 / f64::from(step), 7.0 + f64::from(step), f64::from(step));
            let sums = [vec![s, -2.0, 0.5 * s], vec![0.0, 3.0 - s]];
            run.set("a#grad", tensor(&sums[0]));
            run.set("b#grad", tensor(&sums[1]));
            run.set(state::LOSS_SUM, scalar(21.0 * s));
            let (loss, norm) = run.step(step as u64, lr, tokens);
            close(&[loss, norm], &[21.0 * s / tokens, plain.step(step, lr, tokens, &sums)]);
            for (name, tensor) in ["a", "b"].into_iter().zip(&plain.tensors) {
                close(run.get(name), &tensor[0]);
                close(run.get(&state::first_moment(name)), &tensor[1]);
                close(run.get(&state::second_moment(name)), &tensor[2]);
                assert!(run.get(&state::gradient(name)).iter().all(|&g| g == 0.0), "reset for the next step");
            }
            assert_eq!(run.get(state::LOSS_SUM), [0.0]);
        }
    }
}

/// torch.optim.AdamW's state before and after an update.
#[test]
fn updates_are_those_of_torch() {
    let mut seen = 0;
    for entry in op_goldens::read().into_iter().filter(|entry| entry.op == Op::AdamW) {
        seen += 1;
        let number = |name: &str| entry.attrs.get_float(name);
        let [beta1, beta2, eps, weight_decay] = ["beta1", "beta2", "eps", "weight_decay"].map(number);
        let adamw = AdamW { beta1, beta2, eps, weight_decay, clip: None };
        let mut run = Run::new(&[("w", entry.input("param").clone())], adamw);
        for (name, golden) in [("w#m", "m"), ("w#v", "v"), ("w#grad", "grad")] {
            run.set(name, entry.input(golden).clone());
        }
        let [scale, lr] = ["scale", "lr"].map(|name| entry.input(name).floats()[0]);
        let step: u64 = entry.name.strip_prefix("adamw_").unwrap().parse().unwrap();
        run.step(step, lr, 1.0 / scale);
        for (name, golden) in [("w", "param"), ("w#m", "m"), ("w#v", "v")] {
            close(run.get(name), entry.output(golden).floats());
        }
    }
    assert_eq!(seen, 3);
}

/// loss = sum (x w)^2 + sum n^2 with n in bf16 between.
fn accumulating() -> Program {
    let mut b = Builder::new();
    let ty = TensorType::new(DType::F32, &[2]);
    let x = b.input("x", ty.clone());
    let (w, n) = (b.state("w", ty.clone()), b.state("n", ty.with_dtype(DType::Bf16)));
    let product = b.mul(x, w);
    let (first, second) = (b.sum_squares(product), b.sum_squares(n));
    let loss = b.add(first, second);
    accumulate(&mut b, loss, &[("w".into(), w), ("n".into(), n)], &Packing::default(), Options::default())
        .unwrap();
    b.finish().unwrap()
}

/// Two micro-batches give the sums of both; a gradient in bf16 is added in f32.
#[test]
fn micro_batches_add_up() {
    let program = accumulating();
    let of = |dtype: DType, values: &[f64]| Tensor::float(dtype, &[values.len()], values.to_vec()).unwrap();
    let mut args: Vec<(String, Tensor)> = vec![
        ("x".into(), of(DType::F32, &[1.0, 2.0])),
        ("w".into(), of(DType::F32, &[3.0, -1.0])),
        ("n".into(), of(DType::Bf16, &[0.5, 2.0])),
        ("w#grad".into(), of(DType::F32, &[0.0; 2])),
        ("n#grad".into(), of(DType::F32, &[0.0; 2])),
        (state::LOSS_SUM.into(), scalar(0.0)),
    ];
    for round in 1..=2 {
        let outcome = run_named(&program, &args, Rounding::Storage).unwrap();
        for (name, tensor) in &mut args[1..] {
            *tensor = outcome.state(&program, name).unwrap().clone();
        }
        let times = f64::from(round);
        assert_eq!(args[3].1.floats(), [6.0 * times, -8.0 * times]);
        assert_eq!(args[4].1.floats(), [times, 4.0 * times]);
        assert_eq!(args[5].1.floats(), [17.25 * times]);
    }
}

/// A gradient is added to its sum before the next is computed, or all would be in memory at the same time.
#[test]
fn a_gradient_is_added_as_soon_as_it_is_there() {
    let mut b = Builder::new();
    let ty = TensorType::new(DType::F32, &[4, 4]);
    let mut h = b.input("x", ty.clone());
    let trained: Vec<_> = (0..3).map(|i| (format!("w{i}"), b.state(&format!("w{i}"), ty.clone()))).collect();
    for (_, w) in &trained {
        h = b.matmul(h, *w, false, false);
    }
    let loss = b.sum_squares(h);
    let before = b.nodes().len();
    accumulate(&mut b, loss, &trained, &Packing::default(), Options::default()).unwrap();
    let ops = b.nodes()[before..].iter().map(|node| node.op);
    let ops: Vec<Op> = ops.filter(|op| matches!(op, Op::Matmul | Op::Add)).collect();
    let step = [Op::Matmul, Op::Matmul, Op::Add];
    // The first tensor reads the batch, which has no gradient; the last sum is the loss's.
    assert_eq!(ops, [&step[..], &step, &[Op::Matmul, Op::Add], &[Op::Add]].concat());
}

/// The accumulate program and the apply program find the same state under the same names and types.
#[test]
fn both_programs_share_their_state() {
    let first = accumulating();
    let trainables = ["w", "n"].map(|name| Trainable { name: name.into(), shape: vec![2] });
    let second = apply_program(&trainables, &AdamW::default()).unwrap();
    let mut shared = 0;
    for arg in first.args().iter().filter(|arg| arg.name.contains('#')) {
        let other = second.arg(&arg.name).unwrap();
        assert_eq!((other.role, second.ty(other.value)), (Role::State, first.ty(arg.value)));
        assert!(second.updates().iter().any(|update| update.state == other.value), "{} is reset", arg.name);
        shared += 1;
    }
    assert_eq!(shared, 3);
    assert_eq!(text::parse(&second.to_string()).unwrap(), second);
}

#[test]
fn a_constant_that_makes_no_optimizer_is_an_error() {
    let trainables = [Trainable { name: "layers.0.weight".into(), shape: vec![2] }];
    let error =
        apply_program(&trainables, &AdamW { beta1: 1.0, ..AdamW::default() }).unwrap_err().to_string();
    assert!(error.contains("layers.0.weight") && error.contains("beta1 is 1"), "{error}");
    let twice = [trainables[0].clone(), trainables[0].clone()];
    let error = apply_program(&twice, &AdamW::default()).unwrap_err().to_string();
    assert!(error.contains("two arguments named \"layers.0.weight\""), "{error}");
}

/// In f32 the second correction of the first step would be off in its fifth digit.
#[test]
fn bias_corrections_are_computed_in_f64() {
    let adamw = AdamW::default();
    assert_eq!(adamw.corrections(1), (0.1, 0.001));
    let (first, second) = adamw.corrections(1000);
    assert_eq!(first, 1.0);
    assert!((f64::from(second) - 0.632_304_575_229_035_6).abs() < 1e-7, "{second}");
    assert_eq!(adamw.corrections(u64::MAX), (1.0, 1.0));
}

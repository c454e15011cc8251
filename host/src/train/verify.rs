//! Whether a back end computes what it should: a small training step like the run's, held against the reference
//! interpreter.
//!
//! The model is of the same kind as the run's, with small sizes and random weights, trained by the same method in the
//! same precision. Its programs come from the same code as the run's and go to the device the same way, composites that
//! it has natively included. Each program is given the device's own state from before it, so that one wrong result does
//! not make all that follow it wrong, and rounding does not add up.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_plugin_api::program::{Program, Role, TensorType};
use finetune_plugin_api::reference::{self, Rounding, Tensor, Values};

use crate::data::Batch;
use crate::models::small_config;
use crate::optim::{self, AdamW};
use crate::precision::Precision;

use super::backend::Backend;
use super::config::{Method, RunConfig};
use super::error::TrainError;
use super::programs::{batch_inputs, seed_words};
use super::session::{Purpose, Session};
use super::source::{AdapterSource, LoraSettings, Source};

const ROWS: usize = 2;
const LENGTH: usize = 8;
/// Steps: from the second on the moments are not zero, and the adapters are not either.
const STEPS: u64 = 2;
const SEED: u64 = 17;
const LR: f32 = 1e-3;
/// The largest rank of the small adapters.
const RANK: usize = 4;

/// What a device's rounding may come to, as a part of the largest value of a tensor. In f32 a back end sums in another
/// order and takes its own exponentials: a few units of 6e-8 through some dozens of ops. In bf16 a unit is 4e-3, and
/// gradients go through some dozens of roundings.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-4,
        Precision::Bf16 => 6e-2,
    }
}

/// Below this nothing counts: sums that cancel.
const NOTHING: f64 = 1e-7;

/// Checks the device of a run's session.
///
/// # Errors
/// [`TrainError::WrongNumbers`] says what differs; the device may also fail.
pub(super) fn verify(run: &Session, config: &RunConfig) -> Result<(), TrainError> {
    let begun = std::time::Instant::now();
    let mut check = Check { session: small_session(run, config)?, precision: run.precision };
    let adamw = AdamW { weight_decay: 0.01, clip: Some(1.0), ..AdamW::default() };
    let accumulate = check.session.accumulate_program(ROWS, LENGTH)?;
    let apply = check.session.apply_program(&adamw)?;
    let purpose = Purpose::Accumulate { rows: ROWS, length: LENGTH };
    check.session.compile(purpose.clone(), &accumulate)?;
    check.session.compile(Purpose::Apply, &apply)?;
    let batch = batch(check.session.source.architecture.vocabulary());
    for step in 1..=STEPS {
        let seed = seed_words(SEED);
        check.run(&purpose, &accumulate, &batch_inputs(&batch, &seed, &(step as u32)))?;
        let (correction1, correction2) = adamw.corrections(step);
        let inputs = [
            (optim::input::INVERSE_TOKENS, 1.0 / batch.target_tokens as f32),
            (optim::input::LR, LR),
            (optim::input::CORRECTION1, correction1),
            (optim::input::CORRECTION2, correction2),
        ];
        let bytes = inputs.map(|(name, value)| (name, value.to_le_bytes()));
        let inputs: Vec<(&str, &[u8])> =
            bytes.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        check.run(&Purpose::Apply, &apply, &inputs)?;
    }
    tracing::info!(
        "{} computes what the reference interpreter computes, within {:e}; checked in {:.1} s",
        run.backend.name,
        tolerance(run.precision),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A small model on the run's device.
fn small_session(run: &Session, config: &RunConfig) -> Result<Session, TrainError> {
    let source = Source::of_config(small_config(run.source.files.config()), SEED)?;
    let adapter = match config.method {
        Method::Full => None,
        Method::Lora => {
            let said = LoraSettings {
                rank: Some(config.rank.unwrap_or(RANK).min(RANK)),
                targets: config.targets.as_deref(),
                dropout: config.dropout,
                ..LoraSettings::default()
            };
            Some(AdapterSource::new(&source, Path::new(""), said)?)
        }
    };
    let backend = Backend {
        device: run.backend.device.clone(),
        name: run.backend.name.clone(),
        device_name: run.backend.device_name.clone(),
        kind: run.backend.kind.clone(),
        dtypes: run.backend.dtypes.clone(),
        unified: run.backend.unified,
    };
    let mut session = Session::new(backend, source, adapter, run.precision, run.full)?;
    session.pulse = run.pulse.clone();
    session.load(&mut |_, _| {})?;
    session.begin_state()?;
    Ok(session)
}

/// Rows of different lengths, so that what is padding must not count.
fn batch(vocabulary: usize) -> Batch {
    let count = ROWS * LENGTH;
    let token = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) % vocabulary as u32;
    let valid = [LENGTH, LENGTH - 3];
    let weights: Vec<f32> =
        (0..count).map(|i| if i % LENGTH < valid[i / LENGTH] { 1.0 } else { 0.0 }).collect();
    Batch {
        rows: ROWS,
        len: LENGTH,
        tokens: (0..count).map(token).collect(),
        targets: (1..=count).map(token).collect(),
        target_tokens: weights.iter().sum::<f32>() as u64,
        weights,
        valid: valid.iter().map(|&n| n as u32).collect(),
        positions: (0..ROWS).flat_map(|_| 0..LENGTH as u32).collect(),
        example: (0..ROWS as u32).collect(),
    }
}

struct Check {
    session: Session,
    precision: Precision,
}

impl Check {
    /// Runs a program on the device and by the interpreter, and compares all that it gives.
    fn run(
        &mut self,
        purpose: &Purpose,
        program: &Program,
        inputs: &[(&str, &[u8])],
    ) -> Result<(), TrainError> {
        let before = self.tensors(program)?;
        let set = self.session.submit(purpose, inputs)?;
        let outputs = self.session.outputs(purpose, set)?;
        let after = self.tensors(program)?;
        let mut args = Vec::new();
        for arg in program.args() {
            let ty = program.ty(arg.value);
            let given = match arg.role {
                Role::Input => {
                    inputs.iter().find(|(name, _)| *name == arg.name).map(|(_, bytes)| tensor(ty, bytes))
                }
                Role::Param | Role::State => before.get(&arg.name).cloned().map(Ok),
            };
            args.push(given.ok_or_else(|| TrainError::Internal(format!("{:?} is not given", arg.name)))??);
        }
        let right = reference::run(program, &args, Rounding::Storage).map_err(internal)?;
        for (output, expected) in program.outputs().iter().zip(&right.outputs) {
            let got = outputs.get(&output.name).map(|value| vec![f64::from(*value)]).unwrap_or_default();
            self.compare(&format!("the output {:?}", output.name), &got, floats(expected))?;
        }
        for (value, expected) in &right.states {
            let Some(arg) = program.args().iter().find(|arg| arg.value == *value) else { continue };
            let got = after.get(&arg.name).map(floats).unwrap_or_default();
            self.compare(&described(&arg.name), got, floats(expected))?;
        }
        Ok(())
    }

    /// The tensors that a program reads besides its inputs, as the device has them.
    fn tensors(&self, program: &Program) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let args = program.args().iter().filter(|arg| arg.role != Role::Input);
        let read = args.map(|arg| {
            let bytes = self.session.backend.device.download_all(self.session.tensor(&arg.name)?)?;
            Ok((arg.name.clone(), tensor(program.ty(arg.value), &bytes)?))
        });
        read.collect()
    }

    fn compare(&self, what: &str, got: &[f64], right: &[f64]) -> Result<(), TrainError> {
        let allowed = tolerance(self.precision);
        let largest = right.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let bound = allowed * largest + NOTHING;
        // What is no number is not within anything.
        let wrong = |(_, (got, right)): &(usize, (&f64, &f64))| {
            let near = (*got - *right).abs() <= bound;
            !near
        };
        match got.iter().zip(right).enumerate().find(wrong) {
            None => Ok(()),
            Some((at, (got, right))) => Err(TrainError::WrongNumbers(format!(
                "back end {} computes wrongly: in a small training step like this run's in {}, {what} has {got:e} at \
                 element {at}, where the reference interpreter has {right:e}; {:e} would be allowed",
                self.session.backend.name, self.precision, bound
            ))),
        }
    }
}

fn tensor(ty: &TensorType, bytes: &[u8]) -> Result<Tensor, TrainError> {
    Tensor::from_bytes(ty, bytes).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> TrainError {
    TrainError::Internal(error.to_string())
}

fn floats(tensor: &Tensor) -> &[f64] {
    match tensor.values() {
        Values::Float(values) => values,
        Values::U32(_) | Values::Bool(_) => &[],
    }
}

/// What a state is to a person.
fn described(name: &str) -> String {
    match name.split_once('#') {
        Some(("", _)) => "the sum of losses".into(),
        Some((tensor, "grad")) => format!("the gradient of {tensor}"),
        Some((tensor, "m")) => format!("the first moment of {tensor}"),
        Some((tensor, "v")) => format!("the second moment of {tensor}"),
        _ => format!("the tensor {name}"),
    }
}

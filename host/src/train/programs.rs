//! The programs of a run: accumulate, apply and evaluate.

use finetune_plugin_api::program::Program;

use crate::autodiff;
use crate::data::Batch;
use crate::models::input;
use crate::optim::{AdamW, accumulate, apply_program};

use super::error::TrainError;
use super::oversight::Sign;
use super::session::{Purpose, Session};

impl Session {
    /// Loss and gradients of a micro-batch of that size, added to the state.
    pub fn accumulate_program(&self, rows: usize, length: usize) -> Result<Program, TrainError> {
        let mut forward = self.forward(rows, length, true)?;
        let options = autodiff::Options::for_device(&self.backend.device.ops()?);
        accumulate(&mut forward.builder, forward.loss, &forward.trained, options)?;
        self.lowered(forward.builder.finish()?)
    }

    /// The summed loss of a batch of that size.
    pub fn evaluate_program(&self, rows: usize, length: usize) -> Result<Program, TrainError> {
        let mut forward = self.forward(rows, length, false)?;
        let loss = forward.loss;
        forward.builder.output(LOSS_SUM, loss);
        self.lowered(forward.builder.finish()?)
    }

    /// The optimizer's step.
    pub fn apply_program(&self, adamw: &AdamW) -> Result<Program, TrainError> {
        self.lowered(apply_program(self.trained(), adamw)?)
    }

    /// Adds a micro-batch's loss and gradients to the state.
    pub fn accumulate(&mut self, batch: &Batch, seed: u64, step: u64) -> Result<(), TrainError> {
        self.source.check_tokens(batch)?;
        let purpose = Purpose::Accumulate { rows: batch.rows, length: batch.len };
        if !self.has_program(&purpose) {
            let program = match self.kept(&purpose) {
                Some(program) => program,
                None => self.accumulate_program(batch.rows, batch.len)?,
            };
            self.compile(purpose.clone(), &program)?;
        }
        self.run(&purpose, &batch_inputs(batch, &seed_words(seed), &(step as u32))).map(drop)
    }

    /// The summed loss of a batch.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<f64, TrainError> {
        self.source.check_tokens(batch)?;
        let purpose = Purpose::Evaluate { rows: batch.rows, length: batch.len };
        if !self.has_program(&purpose) {
            let program = match self.kept(&purpose) {
                Some(program) => program,
                None => self.evaluate_program(batch.rows, batch.len)?,
            };
            self.compile(purpose.clone(), &program)?;
        }
        let outputs = self.run(&purpose, &batch_inputs(batch, &[0, 0], &0))?;
        self.pulse.give(Sign::Stepping);
        Ok(f64::from(outputs.get(LOSS_SUM).copied().unwrap_or(f32::NAN)))
    }
}

/// The output of the evaluation program.
const LOSS_SUM: &str = "loss_sum";

pub(super) fn seed_words(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

pub(super) fn batch_inputs<'a>(
    batch: &'a Batch,
    seed: &'a [u32; 2],
    step: &'a u32,
) -> [(&'static str, &'a [u8]); 8] {
    [
        (input::TOKENS, bytemuck::cast_slice(&batch.tokens)),
        (input::TARGETS, bytemuck::cast_slice(&batch.targets)),
        (input::WEIGHTS, bytemuck::cast_slice(&batch.weights)),
        (input::POSITIONS, bytemuck::cast_slice(&batch.positions)),
        (input::VALID, bytemuck::cast_slice(&batch.valid)),
        (input::EXAMPLE, bytemuck::cast_slice(&batch.example)),
        (input::SEED, bytemuck::cast_slice(seed)),
        (input::STEP, bytemuck::bytes_of(step)),
    ]
}

//! What can go wrong in a run, in sentences.

use std::path::{Path, PathBuf};

use finetune_plugin_api::program::ProgramError;

use crate::autodiff::AutodiffError;
use crate::data::DataError;
use crate::models::ModelError;
use crate::optim;
use crate::plugins::DeviceError;
use crate::weights::WeightsError;

use super::config::ConfigError;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model's or adapter's files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model's config or the adapter's targets.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data or the tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The gradients.
    #[error("{0}")]
    Autodiff(#[from] AutodiffError),
    /// A program of the host's own making.
    #[error("the training program is not valid: {0}; this is a mistake in finetune, please report it")]
    Program(#[from] ProgramError),
    /// Something that the host itself should have put in place.
    #[error("{0}; this is a mistake in finetune, please report it")]
    Internal(String),
    /// Settings that cannot be kept.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Settings that do not fit each other, the model or the device.
    #[error("{0}")]
    Settings(String),
    /// A file or folder of the run: its run folder, checkpoints, data, model or adapter.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The loss or the gradient is no number any more.
    #[error("step {step}: the {what} is {value}, {}. {}", diverged(*step, what), last_good(saved.as_deref()))]
    Diverged {
        /// The step.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The last checkpoint.
        saved: Option<PathBuf>,
    },
}

impl TrainError {
    pub(super) fn folder(path: impl Into<PathBuf>, problem: impl Into<String>) -> TrainError {
        TrainError::File { path: path.into(), problem: problem.into() }
    }

    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |error| TrainError::File { path, problem: format!("cannot {action} it: {error}") }
    }
}

/// Why a number is none, and what to try.
fn diverged(step: u64, what: &str) -> &'static str {
    match (step, what) {
        // Nothing was trained before this loss.
        (1, optim::output::LOSS) => {
            "before anything was trained: the model's weights are damaged, or too large for this precision; try \
             --precision f32"
        }
        _ => "so the run has diverged; try a lower --lr, or a longer --warmup",
    }
}

fn last_good(saved: Option<&Path>) -> String {
    saved.map_or("Nothing was saved yet".into(), |path| {
        format!("The last good state is in {}", path.display())
    })
}

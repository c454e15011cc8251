//! Why no text can be generated.

use crate::data::DataError;
use crate::plugins::DeviceError;
use crate::train::TrainError;

/// What can go wrong when text is generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model, the adapter or the device.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The tokenizer or the chat template.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What was asked for cannot be.
    #[error("{0}")]
    Settings(String),
    /// The model gives what is no probability.
    #[error(
        "the model gives {value} for token {token} as number {position} of the text, so no token can be chosen; its \
         weights are damaged, or too large for this precision: try --precision f32"
    )]
    Logit {
        /// The number.
        value: f32,
        /// The token.
        token: usize,
        /// The position in prompt and completion, from 1.
        position: usize,
    },
    /// The text cannot be handed on.
    #[error("cannot write the text: {0}")]
    Write(#[from] std::io::Error),
}

//! Mistral (Jiang et al. 2023): Llama's decoder with a sliding window.

use super::decoder::Decoder;
use super::{Architecture, Config, ModelError};

/// What transformers takes an absent `num_key_value_heads` for.
const KEY_HEADS: usize = 8;
/// What transformers takes an absent `sliding_window` for; `null` means none.
const WINDOW: usize = 4096;

pub(super) fn make(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let mut decoder = Decoder::from_config("mistral", config, Some(KEY_HEADS))?;
    decoder.attention.window = match config.mentions("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(WINDOW),
    };
    Ok(Box::new(decoder))
}

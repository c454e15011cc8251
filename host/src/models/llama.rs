//! Llama 1, 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024) and what is saved in its format.

use super::decoder::Decoder;
use super::{Architecture, Config, ModelError};

pub(super) fn make(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    Ok(Box::new(Decoder::from_config("llama", config, None)?))
}

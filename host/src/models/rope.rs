//! Rotary frequencies from a config.

use std::f64::consts::TAU;

use super::{Config, ModelError};

/// The name of the buffer of inverse frequencies.
pub(super) const INV_FREQ: &str = "rope.inv_freq";

/// Inverse frequencies for `channels` turned channels: f32[channels / 2].
///
/// Reads both spellings that transformers has used: `rope_theta` with `rope_scaling`, and `rope_parameters`.
pub(super) fn inverse_frequencies(config: &Config, channels: usize) -> Result<Vec<f32>, ModelError> {
    let parameters = match config.section("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.section("rope_scaling")?,
    };
    let outer_theta = config.number("rope_theta", 10_000.0)?;
    let theta = match &parameters {
        Some(parameters) => parameters.number("rope_theta", outer_theta)?,
        None => outer_theta,
    };
    if theta <= 0.0 {
        return Err(ModelError::Config(format!("rope_theta is {theta}; expected a number above 0")));
    }
    let plain = (0..channels / 2).map(|i| theta.powf(-((2 * i) as f64) / channels as f64));
    let scaled: Vec<f64> = match parameters {
        Some(parameters) => scale(config, &parameters, plain.collect())?,
        None => plain.collect(),
    };
    Ok(scaled.into_iter().map(|frequency| frequency as f32).collect())
}

fn scale(config: &Config, parameters: &Config, plain: Vec<f64>) -> Result<Vec<f64>, ModelError> {
    let kind = match parameters.optional_text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.optional_text("type")?,
    };
    match kind.as_deref().unwrap_or("default") {
        "default" => Ok(plain),
        "linear" => {
            let factor = positive(parameters, "factor")?;
            Ok(plain.into_iter().map(|frequency| frequency / factor).collect())
        }
        "llama3" => llama3(config, parameters, plain),
        other => Err(ModelError::Config(format!(
            "the rope type {other:?} is not supported; supported are default, linear and llama3"
        ))),
    }
}

fn positive(config: &Config, key: &str) -> Result<f64, ModelError> {
    match config.required_number(key)? {
        value if value > 0.0 => Ok(value),
        value => Err(ModelError::Config(format!("{key} is {value}; expected a number above 0"))),
    }
}

/// Llama 3's scaling: long waves are stretched by `factor`, short ones kept, those between blended.
fn llama3(config: &Config, parameters: &Config, plain: Vec<f64>) -> Result<Vec<f64>, ModelError> {
    let factor = positive(parameters, "factor")?;
    let low = positive(parameters, "low_freq_factor")?;
    let high = positive(parameters, "high_freq_factor")?;
    let context = match parameters.value("original_max_position_embeddings") {
        Some(_) => positive(parameters, "original_max_position_embeddings")?,
        None => positive(config, "original_max_position_embeddings")?,
    };
    if high <= low {
        return Err(ModelError::Config(format!(
            "high_freq_factor {high} is not above low_freq_factor {low} in the rope scaling"
        )));
    }
    let scaled = plain.into_iter().map(|frequency| {
        let wavelength = TAU / frequency;
        if wavelength > context / low {
            frequency / factor
        } else if wavelength < context / high {
            frequency
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    });
    Ok(scaled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn frequencies(json: serde_json::Value) -> Vec<f32> {
        inverse_frequencies(&Config::new(&json).unwrap(), 8).unwrap()
    }

    /// Both spellings mean the same frequencies.
    #[test]
    fn old_and_new_spelling_agree() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let mut new = scaling.clone();
        new["rope_theta"] = json!(500000.0);
        let old = json!({"rope_theta": 500000.0, "rope_scaling": scaling});
        let old = frequencies(old);
        assert_eq!(old, frequencies(json!({"rope_parameters": new})));
        assert_ne!(old, frequencies(json!({"rope_theta": 500000.0})), "the scaling must matter here");
        assert_eq!(old[0], 1.0, "the shortest wave is kept");
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let config = Config::new(&json!({"rope_scaling": {"type": "yarn", "factor": 2.0}})).unwrap();
        let message = inverse_frequencies(&config, 8).unwrap_err().to_string();
        assert!(message.contains("yarn"), "{message}");
    }
}

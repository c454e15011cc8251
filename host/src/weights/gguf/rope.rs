//! The rotary frequencies of a GGUF file as a Hugging Face config says them.

use std::f64::consts::TAU;

use serde_json::{Map, Value as Json, json};

use super::metadata::Metadata;

/// What Llama 3.1 and all that followed it were trained with before their context was stretched.
const LLAMA3_CONTEXT: f64 = 8192.0;
/// Llama 3's factors for long and short waves; no model has others.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
/// How far a written factor may be from the one that is computed: they are made in f32.
const FACTOR: f64 = 2e-5;

/// `rope_scaling` for a config: `null` if there is none.
///
/// `factors` are the numbers that every frequency is divided by, tensor `rope_freqs.weight`, of which llama.cpp
/// makes Llama 3's scaling.
///
/// # Errors
/// A sentence for every scaling that has no counterpart.
pub(super) fn scaling(
    metadata: &Metadata,
    factors: Option<&[f32]>,
    theta: f64,
    channels: usize,
) -> Result<Json, String> {
    let declared = declared(metadata)?;
    let Some(factors) = factors.filter(|factors| factors.iter().any(|&factor| factor != 1.0)) else {
        return Ok(declared);
    };
    if !declared.is_null() {
        return Err(
            "it has both llama.rope.scaling keys and the tensor rope_freqs.weight; one of them is expected"
                .into(),
        );
    }
    if factors.len() != channels / 2 {
        return Err(format!(
            "rope_freqs.weight has {} numbers; a head of {channels} channels needs {}",
            factors.len(),
            channels / 2
        ));
    }
    let frequencies: Vec<f64> =
        (0..channels / 2).map(|i| theta.powf(-((2 * i) as f64) / channels as f64)).collect();
    let hint = metadata.number("llama.rope.scaling.original_context_length")?;
    llama3(&frequencies, factors, hint).ok_or_else(|| {
        "the frequency factors in rope_freqs.weight are not those of Llama 3's scaling, and no other is supported"
            .into()
    })
}

/// What the keys say.
fn declared(metadata: &Metadata) -> Result<Json, String> {
    let kind = metadata.text("llama.rope.scaling.type")?;
    let factor = match metadata.number("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The older spelling.
        None => metadata.number("llama.rope.scale_linear")?,
    };
    match (kind, factor) {
        (Some("none"), _) | (None, None) => Ok(Json::Null),
        // llama.cpp takes 0 for no scaling.
        (Some("linear") | None, Some(0.0 | 1.0)) | (Some("linear"), None) => Ok(Json::Null),
        (Some("linear") | None, Some(factor)) if factor > 0.0 => {
            Ok(json!({"rope_type": "linear", "type": "linear", "factor": factor}))
        }
        (Some("linear") | None, Some(factor)) => {
            Err(format!("llama.rope.scaling.factor is {factor}; expected a number above 0"))
        }
        (Some(other), _) => Err(format!(
            "llama.rope.scaling.type is {other:?}, which is not supported; supported are none, linear and Llama 3's \
             rope_freqs.weight"
        )),
    }
}

/// The parameters of Llama 3's scaling that give these factors.
///
/// The context length is not in the file. Frequencies whose factor is between the two ends give it away; where
/// there is none, every length between the waves that are kept and those that are stretched means the same.
fn llama3(frequencies: &[f64], factors: &[f32], hint: Option<f64>) -> Option<Json> {
    let factor = factors.iter().copied().fold(0.0, f32::max);
    let factor: f64 = factor.to_string().parse().ok()?;
    if !factor.is_finite() || factor <= 1.0 {
        return None;
    }
    let candidates = hint
        .into_iter()
        .chain([LLAMA3_CONTEXT])
        .chain(blended(frequencies, factors, factor))
        .chain(between(frequencies, factors));
    let context = candidates.into_iter().find(|&context| {
        let agrees = |(&frequency, &written): (&f64, &f32)| {
            let computed = computed(frequency, factor, context);
            (computed - f64::from(written)).abs() <= FACTOR * computed
        };
        context >= 1.0 && frequencies.iter().zip(factors).all(agrees)
    })?;
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), "llama3".into());
    scaling.insert("factor".into(), factor.into());
    scaling.insert("low_freq_factor".into(), LLAMA3_LOW.into());
    scaling.insert("high_freq_factor".into(), LLAMA3_HIGH.into());
    scaling.insert("original_max_position_embeddings".into(), (context as u64).into());
    Some(scaling.into())
}

/// What Llama 3's scaling divides a frequency by.
fn computed(frequency: f64, factor: f64, context: f64) -> f64 {
    let wave = TAU / frequency;
    if wave < context / LLAMA3_HIGH {
        1.0
    } else if wave > context / LLAMA3_LOW {
        factor
    } else {
        let smooth = (context / wave - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// The context length that follows from a factor between 1 and the greatest.
fn blended(frequencies: &[f64], factors: &[f32], factor: f64) -> Option<f64> {
    let between = |written: f64| written > 1.0 + FACTOR && written < factor * (1.0 - FACTOR);
    let mut pairs =
        frequencies.iter().zip(factors).map(|(&frequency, &written)| (frequency, f64::from(written)));
    let (frequency, written) = pairs.find(|&(_, written)| between(written))?;
    let smooth = (1.0 / written - 1.0 / factor) / (1.0 - 1.0 / factor);
    Some((TAU / frequency * (smooth * (LLAMA3_HIGH - LLAMA3_LOW) + LLAMA3_LOW)).round())
}

/// A context length between the waves that are kept and those that are stretched.
fn between(frequencies: &[f64], factors: &[f32]) -> Option<f64> {
    let kept = factors.iter().take_while(|&&factor| factor == 1.0).count();
    let shortest_stretched = TAU / frequencies.get(kept)?;
    let longest_kept = kept.checked_sub(1).map_or(0.0, |last| TAU / frequencies[last]);
    Some((shortest_stretched.floor()).max((LLAMA3_HIGH * longest_kept).floor() + 1.0))
}

#[cfg(test)]
#[path = "rope_tests.rs"]
mod tests;

use super::*;
use crate::weights::gguf::value::Value;
use crate::weights::testing::refused;

const CHANNELS: usize = 64;

/// The factors that llama.cpp's converter writes, in f32.
fn written(theta: f64, factor: f64, context: f64) -> Vec<f32> {
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / CHANNELS as f64);
    (0..CHANNELS / 2).map(|i| computed(frequency(i), factor, context) as f32).collect()
}

fn metadata(keys: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in keys {
        assert!(metadata.insert(key, value.clone()));
    }
    metadata
}

/// Llama 3.1's and 3.2's own, and other contexts: the scaling that is found gives the same factors.
#[test]
fn llama3_scaling_is_found_from_its_factors() {
    for (theta, factor, context) in
        [(500_000.0, 8.0, 8192.0), (500_000.0, 32.0, 8192.0), (500.0, 8.0, 32.0), (10_000.0, 4.0, 2048.0)]
    {
        let factors = written(theta, factor, context);
        let found = scaling(&Metadata::default(), Some(&factors), theta, CHANNELS).unwrap();
        assert_eq!((&found["rope_type"], &found["factor"]), (&json!("llama3"), &json!(factor)));
        let original = found["original_max_position_embeddings"].as_f64().unwrap();
        for (i, &factor_written) in factors.iter().enumerate() {
            let frequency = theta.powf(-((2 * i) as f64) / CHANNELS as f64);
            let again = computed(frequency, factor, original);
            assert!((again - f64::from(factor_written)).abs() <= 1e-4 * again, "{theta}, {i}");
        }
    }
    let ones = [1.0; CHANNELS / 2];
    assert!(scaling(&Metadata::default(), Some(&ones), 1e4, CHANNELS).unwrap().is_null());
}

#[test]
fn declared_scaling() {
    let text = |text: &str| Value::Text(text.into());
    let of = |keys: &[(&str, Value)]| scaling(&metadata(keys), None, 1e4, CHANNELS);
    assert!(of(&[]).unwrap().is_null());
    assert!(of(&[("llama.rope.scaling.type", text("none"))]).unwrap().is_null());
    let linear =
        of(&[("llama.rope.scaling.type", text("linear")), ("llama.rope.scaling.factor", Value::F32(4.0))]);
    assert_eq!(linear.unwrap()["factor"], json!(4.0));
    assert_eq!(of(&[("llama.rope.scale_linear", Value::F32(2.0))]).unwrap()["rope_type"], "linear");
    refused(of(&[("llama.rope.scaling.type", text("yarn"))]), &["yarn", "not supported"]);
    refused(of(&[("llama.rope.scaling.factor", Value::F32(-2.0))]), &["-2", "above 0"]);
}

/// A scaling that cannot be said in a config is never left out.
#[test]
fn other_factors_are_refused() {
    let of = |factors: &[f32]| scaling(&Metadata::default(), Some(factors), 1e4, CHANNELS);
    refused(of(&[2.0; 3]), &["3 numbers", "needs 32"]);
    refused(of(&[0.5; 32]), &["not those of Llama 3"]);
    refused(of(&[f32::NAN; 32]), &["not those of Llama 3"]);
    refused(of(&[f32::INFINITY; 32]), &["not those of Llama 3"]);
    let mut odd = written(500_000.0, 8.0, 8192.0);
    odd[20] *= 1.01;
    refused(scaling(&Metadata::default(), Some(&odd), 500_000.0, CHANNELS), &["not those of Llama 3"]);
    let both = metadata(&[("llama.rope.scaling.factor", Value::F32(4.0))]);
    refused(scaling(&both, Some(&written(1e4, 8.0, 8192.0)), 1e4, CHANNELS), &["both"]);
}

//! A small model of a large one's kind: the same ops, small enough for the reference interpreter.

use serde_json::{Map, Value};

/// The most a size may be. Each differs from the others, so that a mixed-up shape shows.
const LAYERS: u64 = 2;
const VOCABULARY: u64 = 150;
const INNER: u64 = 72;
const POSITIONS: u64 = 64;
const HEAD_CHANNELS: u64 = 12;
const WINDOW: u64 = 5;

/// The same config with small sizes. What says how the model computes stays: activations, norms, positions, biases, tied
/// weights, and in how large groups heads share keys (up to 4).
pub fn small_config(config: &Map<String, Value>) -> Map<String, Value> {
    let mut small = config.clone();
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let mut at_most = |key: &str, most: u64| {
        if let Some(size) = size(key) {
            small.insert(key.into(), size.min(most).into());
        }
    };
    for (key, most) in [
        ("vocab_size", VOCABULARY),
        ("num_hidden_layers", LAYERS),
        ("n_layer", LAYERS),
        ("intermediate_size", INNER),
        ("n_inner", INNER),
        ("n_positions", POSITIONS),
        ("n_ctx", POSITIONS),
        ("sliding_window", WINDOW),
    ] {
        at_most(key, most);
    }
    if let Some(heads) = size("n_head") {
        let heads = heads.min(4);
        small.insert("n_head".into(), heads.into());
        small.insert("n_embd".into(), (heads * HEAD_CHANNELS).into());
    }
    if let Some(heads) = size("num_attention_heads") {
        let key_heads = size("num_key_value_heads").unwrap_or(heads).max(1);
        let group = (heads / key_heads).clamp(1, 4);
        let key_heads = if group * 2 <= 4 { key_heads.min(2) } else { 1 };
        small.insert("num_attention_heads".into(), (group * key_heads).into());
        small.insert("num_key_value_heads".into(), key_heads.into());
        small.insert("head_dim".into(), HEAD_CHANNELS.into());
        small.insert("hidden_size".into(), (group * key_heads * HEAD_CHANNELS).into());
    }
    small
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Config, from_config};
    use super::*;

    /// Every kind of model that can be trained can be made small.
    #[test]
    fn models_of_real_sizes_become_small_ones_of_their_kind() {
        for config in [
            json!({"model_type": "llama", "vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28672,
                "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "rope_theta": 5e5,
                "tie_word_embeddings": false}),
            json!({"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": 4096}),
            json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
                "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}),
            json!({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 1600, "n_layer": 48, "n_head": 25,
                "n_positions": 1024}),
        ] {
            let Value::Object(keys) = &config else { panic!("an object") };
            let small = Config::new(&Value::Object(small_config(keys))).unwrap();
            let model = from_config(&small).unwrap();
            let parameters: usize =
                model.tensors().iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
            assert!(parameters < 100_000, "{config}: {parameters}");
            assert_eq!(model.model_type(), config["model_type"]);
        }
    }
}

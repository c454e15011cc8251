use super::*;
use crate::weights::gguf::Gguf;
use crate::weights::gguf::header;
use crate::weights::gguf::testing::{File, List, Value, texts};
use crate::weights::testing::refused;
use crate::weights::{WeightDType, convert::convert};

type Case = (fn(&mut File), &'static [&'static str]);

fn read(file: &File) -> Result<(Config, Places), String> {
    let bytes = file.bytes();
    model(&header::parse(&bytes)?, &bytes)
}

fn set(file: &mut File, key: &str, number: u64) {
    file.set(key, Value::Unsigned(number));
}

fn text(file: &mut File, key: &str, text: &str) {
    file.set(key, Value::Text(text.into()));
}

#[test]
fn a_model_becomes_a_config_and_named_tensors() {
    let mut file = File::llama();
    file.floats("output.weight", &[4, 4]);
    file.floats("blk.0.attn_q.bias", &[4]);
    let (config, places) = read(&file).unwrap();
    let expected = json!({"model_type": "llama", "hidden_size": 4, "head_dim": 2, "vocab_size": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "rope_scaling": null,
        "tie_word_embeddings": false, "attention_bias": true, "mlp_bias": false, "eos_token_id": 3,
        "torch_dtype": "float32"});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
    assert_eq!(places.len(), 13);
    assert_eq!(places["model.layers.0.self_attn.q_proj.bias"].rows, RowOrder::Pairs { group: 2 });
    assert_eq!(places["model.layers.0.self_attn.v_proj.weight"].rows, RowOrder::AsStored);
    assert!(read(&File::llama()).unwrap().0["tie_word_embeddings"].as_bool().unwrap());
}

/// Rows stand in pairs in the file and in halves in the view, in whatever ranges they are read.
#[test]
fn rows_of_queries_are_put_back() {
    let mut file = File::llama();
    set(&mut file, "llama.attention.head_count", 1);
    set(&mut file, "llama.attention.head_count_kv", 1);
    let stored: Vec<f32> = (0..16).map(|i| i as f32).collect();
    file.tensor("blk.0.attn_q.weight").data = stored.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let view = gguf.tensors().get("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert!(view.as_stored().is_none(), "no device may borrow rows in the wrong order");
    let rows = [0, 2, 1, 3].map(|row| &stored[4 * row..4 * row + 4]).concat();
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    assert_eq!(convert(&view, WeightDType::F32).unwrap(), bytes(&rows));
    let mut out = Vec::new();
    for start in 0..16 {
        for end in start..=16 {
            crate::weights::convert::convert_range(&view, start..end, WeightDType::F32, &mut out).unwrap();
            assert_eq!(out, bytes(&rows[start..end]), "{start}..{end}");
        }
    }
}

/// A factor that no scaling has.
fn half_of_a_frequency(file: &mut File) {
    file.floats("rope_freqs.weight", &[1]);
    file.tensor("rope_freqs.weight").data = 0.5f32.to_le_bytes().into();
}

#[test]
fn what_is_no_model_that_is_read_is_refused() {
    let cases: &[Case] = &[
        (|f| text(f, ARCHITECTURE, "qwen2"), &["\"qwen2\"", "llama", "Hugging Face folder"]),
        (|f| text(f, ARCHITECTURE, "gemma"), &["\"gemma\""]),
        (|f| f.remove(ARCHITECTURE), &["general.architecture is missing"]),
        (|f| set(f, ARCHITECTURE, 1), &["general.architecture is 1", "a text"]),
        (|f| set(f, "split.count", 3), &["one of 3 parts", "--merge"]),
        (|f| text(f, "general.type", "adapter"), &["adapter", "base model"]),
        (|f| set(f, "llama.expert_count", 8), &["8 experts"]),
        (|f| f.set("llama.attention.causal", Value::Bool(false)), &["not causal"]),
        (|f| set(f, "llama.attention.sliding_window", 8), &["llama.attention.sliding_window", "not known"]),
        (|f| text(f, "llama.rope.scaling.type", "yarn"), &["\"yarn\""]),
        (|f| f.set("llama.rope.scaling.factor", Value::F32(-1.0)), &["factor is -1"]),
        (|f| f.remove("llama.attention.head_count"), &["llama.attention.head_count is missing"]),
        (|f| set(f, "llama.attention.head_count", 0), &["head_count is 0"]),
        (|f| set(f, "llama.attention.head_count", 3), &["3 heads", "key_length"]),
        (|f| set(f, "llama.attention.head_count", u64::MAX), &["head_count is 18446744073709551615"]),
        (
            |f| f.set("llama.attention.head_count_kv", Value::List(List::I32(vec![2]))),
            &["list of 1 whole numbers"],
        ),
        (|f| set(f, "llama.attention.value_length", 4), &["value_length is 4", "2 channels"]),
        (|f| set(f, "llama.rope.dimension_count", 1), &["dimension_count is 1"]),
        (|f| f.set("llama.block_count", Value::F32(1.0)), &["llama.block_count is 1", "whole number"]),
        (|f| f.remove("llama.feed_forward_length"), &["feed_forward_length is missing"]),
        (|f| f.remove("llama.attention.layer_norm_rms_epsilon"), &["rms_epsilon is missing"]),
        (|f| f.set("llama.rope.freq_base", Value::F32(f32::NAN)), &["freq_base is NaN"]),
        (|f| f.tensors.remove(0).name.clear(), &["token_embd.weight"]),
        (|f| f.tensor(EMBEDDING).sizes = vec![16], &["no matrix token_embd.weight"]),
        (|f| f.set("tokenizer.ggml.tokens", texts(&["a", "b"])), &["tokens", "2 tokens", "4 rows"]),
        (|f| set(f, "llama.vocab_size", 5), &["llama.vocab_size", "5 tokens", "4 rows"]),
        (|f| f.tensor("blk.0.attn_k.weight").sizes = vec![8, 1], &["blk.0.attn_k.weight", "heads of 2"]),
        (|f| f.floats("model.norm.weight", &[4]), &["model.norm.weight"]),
        (|f| f.floats("rope_factors_long.weight", &[1]), &["longrope"]),
        (half_of_a_frequency, &["not those of Llama 3"]),
    ];
    for (change, words) in cases {
        let mut file = File::llama();
        change(&mut file);
        refused(read(&file), words);
    }
}

/// Every kind that is not read is refused by its name, where the model needs the tensor.
#[test]
fn kinds_that_are_not_read_are_refused_by_name() {
    for (kind, name, elements, bytes) in [(12, "Q4_K", 256, 144), (14, "Q6_K", 256, 210), (6, "Q5_0", 32, 22)]
    {
        let mut file = File::llama();
        let tensor = file.tensor("blk.0.ffn_up.weight");
        (tensor.kind, tensor.sizes, tensor.data) = (kind, vec![elements, 1], vec![0; bytes]);
        refused(read(&file), &["blk.0.ffn_up.weight", name, "Q8_0, Q4_0 and Q4_1", "llama-quantize"]);
    }
}

/// Shapes are compared where a model is made of config and tensors.
#[test]
fn tensors_of_another_shape_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut file = File::llama();
    file.tensor("blk.0.ffn_up.weight").sizes = vec![2, 8];
    std::fs::write(&path, file.bytes()).unwrap();
    refused(
        crate::train::source::Source::open(&path, 0).map(drop),
        &["mlp.up_proj.weight", "[8, 2]", "[4, 4]"],
    );
    let mut file = File::llama();
    set(&mut file, "llama.block_count", 2);
    std::fs::write(&path, file.bytes()).unwrap();
    refused(crate::train::source::Source::open(&path, 0).map(drop), &["model.layers.1.", "m.gguf"]);
    set(&mut file, "llama.block_count", 1 << 30);
    std::fs::write(&path, file.bytes()).unwrap();
    refused(crate::train::source::Source::open(&path, 0).map(drop), &["num_hidden_layers"]);
}

/// Pieces of blocks and of rows in pairs, in every type: what is read in ranges is what is read at once.
#[test]
fn ranges_of_blocks_are_parts_of_the_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data/gguf-kinds");
    let mut out = Vec::new();
    for file in ["q4_0", "q4_1", "q8_0", "bf16"] {
        let gguf = Gguf::open(&folder.join(format!("{file}.gguf"))).unwrap();
        for part in ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"] {
            let view = gguf.tensors().get(&format!("model.layers.1.{part}.weight")).unwrap();
            let exact = convert(&view, WeightDType::F32).unwrap();
            for to in [WeightDType::F32, WeightDType::BF16, WeightDType::F16] {
                let mut whole = Vec::new();
                crate::weights::convert::convert_bytes(&exact, WeightDType::F32, to, &mut whole);
                let count = view.elements();
                for (start, end) in [(0, count), (1, 2), (31, 33), (7, 250), (count - 5, count), (40, 40)] {
                    crate::weights::convert::convert_range(&view, start..end, to, &mut out).unwrap();
                    assert!(
                        out == whole[start * to.size()..end * to.size()],
                        "{file} {part} {to} {start}..{end}"
                    );
                }
            }
        }
    }
}

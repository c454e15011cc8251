use tempfile::tempdir;

use super::*;
use crate::weights::ModelFolder;
use crate::weights::testing::{put, refused};

fn specs() -> Vec<TensorSpec> {
    [("a", 10), ("b", 10), ("c", 25), ("d", 1)]
        .map(|(name, len)| TensorSpec::new(name, WeightDType::BF16, [len]))
        .to_vec()
}

fn write(dir: &Path, max_shard_bytes: u64) {
    let specs = specs();
    let mut writer = ModelWriter::create(dir, &specs, max_shard_bytes).unwrap();
    for (at, spec) in specs.iter().enumerate() {
        writer.write(&spec.name, &vec![at as u8; spec.byte_size().unwrap() as usize]).unwrap();
    }
    writer.finish().unwrap();
    let config = serde_json::from_str(r#"{"model_type":"llama","torch_dtype":"float32"}"#).unwrap();
    write_config(dir, &config, WeightDType::BF16).unwrap();
}

fn check(dir: &Path) {
    let model = ModelFolder::open(dir).unwrap();
    let tensors = model.tensors().unwrap();
    assert_eq!(model.config()["torch_dtype"], "bfloat16");
    assert_eq!(tensors.len(), 4);
    for (at, spec) in specs().iter().enumerate() {
        let view = tensors.require(&spec.name, &spec.shape).unwrap();
        assert_eq!(view.weight_dtype().unwrap(), WeightDType::BF16);
        assert!(view.bytes().as_slice().iter().all(|byte| *byte == at as u8));
    }
}

/// A model that fits becomes one file, without an index.
#[test]
fn small_model_is_one_file() {
    let dir = tempdir().unwrap();
    write(dir.path(), 92);
    check(dir.path());
    assert_eq!(list_files(dir.path()).unwrap(), ["config.json", "model.safetensors"]);
}

/// A larger one becomes shards, none larger than asked except for a tensor that is larger by itself.
#[test]
fn large_model_is_sharded() {
    let dir = tempdir().unwrap();
    write(dir.path(), 40);
    check(dir.path());
    let shards = [1, 2, 3].map(|number| format!("model-0000{number}-of-00003.safetensors"));
    let index: Value = serde_json::from_slice(&fs::read(dir.path().join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 92);
    assert_eq!(index["weight_map"], json!({"a": shards[0], "b": shards[0], "c": shards[1], "d": shards[2]}));
    assert_eq!(list_files(dir.path()).unwrap().len(), 5);
}

/// A tensor twice is refused also where its two copies would be in different shards.
#[test]
fn duplicate_across_shards_is_refused() {
    let dir = tempdir().unwrap();
    let spec = TensorSpec::new("a", WeightDType::F32, [4]);
    refused(ModelWriter::create(dir.path(), &[spec.clone(), spec], 16), &["two tensors called a"]);
    let mut writer = ModelWriter::create(dir.path(), &specs(), 16).unwrap();
    refused(writer.write("z", &[0]), &["without a tensor called z"]);
}

/// The dtype is written in the spelling that the config has, in both if it has both, and elsewhere nothing
/// moves.
#[test]
fn config_dtype_keeps_its_spelling() {
    for (before, after) in [
        (r#"{"torch_dtype":"float32","x":1}"#, r#"{"torch_dtype":"float16","x":1}"#),
        (r#"{"dtype":"float32","x":1}"#, r#"{"dtype":"float16","x":1}"#),
        (r#"{"torch_dtype":null,"x":1,"dtype":"a"}"#, r#"{"torch_dtype":"float16","x":1,"dtype":"float16"}"#),
        (r#"{"x":1}"#, r#"{"x":1,"torch_dtype":"float16"}"#),
    ] {
        let mut config = serde_json::from_str(before).unwrap();
        set_config_dtype(&mut config, WeightDType::F16);
        assert_eq!(Value::Object(config).to_string(), after);
    }
}

/// Tokenizer and its like come along; weights, config and strangers do not.
#[test]
fn side_files_are_copied() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let copied = [
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ];
    for name in copied.iter().chain(&["config.json", "model.safetensors", "README.md", "pytorch_model.bin"]) {
        put(from.path(), name, name);
    }
    assert_eq!(copy_side_files(from.path(), to.path()).unwrap(), copied);
    assert_eq!(list_files(to.path()).unwrap(), copied);
    assert_eq!(fs::read(to.path().join("vocab.json")).unwrap(), b"vocab.json");
    refused(copy_side_files(&from.path().join("none"), to.path()), &["cannot list"]);
}

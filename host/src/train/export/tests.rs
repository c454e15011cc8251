use std::path::PathBuf;

use serde_json::{Value, json};

use crate::weights::Tensors;

use super::*;

struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
}

fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data").join(path)
}

fn run(
    model: PathBuf,
    adapter: Option<PathBuf>,
    dtype: Option<WeightDType>,
    out: &Path,
) -> Result<ExportSummary, TrainError> {
    export(&ExportRequest { model, adapter, dtype, out: out.into() }, &mut Silent)
}

fn values(path: &Path) -> std::collections::BTreeMap<String, Vec<f64>> {
    let files = Tensors::open_file(path).unwrap();
    let read = |name: &str| {
        let elements = Elements::File(files.get(name).unwrap());
        let mut bytes = Vec::new();
        elements.range(0..elements.count(), WeightDType::F32, &mut bytes).unwrap();
        (name.to_owned(), floats(&bytes).collect())
    };
    files.names().map(read).collect()
}

/// PEFT merges in f32, here it is f64 rounded once: they differ by the roundings of PEFT's sum.
#[test]
fn merging_gives_what_peft_gives() {
    let dir = tempfile::tempdir().unwrap();
    for (model, adapter) in [
        ("llama3", "llama3/lora-all-linear/adapter_final"),
        ("gpt2", "gpt2/lora-all-linear/adapter_final"),
        ("gpt2", "merged/gpt2/adapter"),
        ("llama2", "merged/llama2/adapter"),
    ] {
        let name = adapter.split('/').take(2).collect::<Vec<_>>().join("-");
        let golden = goldens(&format!("merged/{name}.safetensors"));
        let out = dir.path().join(&name);
        let summary = run(goldens(&format!("{model}/model")), Some(goldens(adapter)), None, &out).unwrap();
        assert!(summary.merged > 0 && summary.dtype == WeightDType::F32);
        let (got, want) = (values(&out.join("model.safetensors")), values(&golden));
        assert!(!want.is_empty());
        for (tensor, want) in &want {
            for (got, want) in got[tensor].iter().zip(want) {
                assert!(
                    (got - want).abs() <= 1e-6 * want.abs().max(0.1),
                    "{name}, {tensor}: {got}, PEFT {want}"
                );
            }
        }
        assert!(summary.difference < 1e-6, "{summary:?}");
    }
}

#[test]
fn a_folder_is_complete_and_says_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let adapter = Some(goldens("llama3/lora-all-linear/adapter_final"));
    let summary = run(goldens("llama3/model"), adapter, Some(WeightDType::BF16), &out).unwrap();
    assert!(summary.difference > 1e-5 && summary.difference < 1e-2, "rounding to bf16 shows: {summary:?}");
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "bfloat16");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(out.join(file).exists(), "{file}");
    }
    let source = Source::open(&out, 0).unwrap();
    assert_eq!(source.stored("model.norm.weight"), finetune_plugin_api::program::DType::Bf16);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");

    let error = run(goldens("llama3/model"), None, None, &out).unwrap_err().to_string();
    assert!(error.contains("overwrites nothing"), "{error}");
}

/// An adapter on a head that is the token embedding, too, must not change the embedding.
#[test]
fn an_adapted_tied_head_becomes_a_tensor_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&goldens("llama3/model"), 0).unwrap();
    let said = LoraSettings { targets: Some("lm_head"), ..LoraSettings::default() };
    let adapter = AdapterSource::new(&source, Path::new("m"), said).unwrap();
    let plan = Plan::new(&source, Some(&adapter));
    assert!(plan.untied);
    assert_eq!(plan.config()["tie_word_embeddings"], json!(false));
    plan.write(dir.path(), WeightDType::F32, &mut |_, _| ()).unwrap();
    write_config(dir.path(), &plan.config(), WeightDType::F32).unwrap();
    plan.compare(dir.path(), WeightDType::F32, &mut |_, _| ()).unwrap();
    let written = values(&dir.path().join("model.safetensors"));
    // A new B is zero.
    assert_eq!(written["lm_head.weight"], written["model.embed_tokens.weight"]);
}

/// What the comparison is for: a tensor that is off by more than rounding is found, merged or not.
#[test]
fn a_wrong_tensor_is_found() {
    let source = Source::open(&goldens("llama3/model"), 0).unwrap();
    let said = LoraSettings {
        adapter: Some(&goldens("llama3/lora-all-linear/adapter_final")),
        ..LoraSettings::default()
    };
    let adapter = AdapterSource::new(&source, Path::new("m"), said).unwrap();
    let plan = Plan::new(&source, Some(&adapter));
    let mut merged = 0;
    for spec in plan.tensors.iter().filter(|spec| !spec.name.contains("layers.1")) {
        let tensor = plan.tensor(spec).unwrap();
        merged += usize::from(tensor.product.is_some());
        let mut bytes = Vec::new();
        tensor
            .pieces(WeightDType::F32, &mut |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        let mut right: Vec<f32> = floats(&bytes).map(|value| value as f32).collect();
        Comparison::of(&tensor, &Elements::Values(right.clone()), WeightDType::F32).unwrap();
        let last = right.len() - 1;
        right[last] += 1e-3 * right[last].abs().max(0.1);
        assert!(
            Comparison::of(&tensor, &Elements::Values(right.clone()), WeightDType::F32).is_err(),
            "{}",
            spec.name
        );
        right[last] = f32::INFINITY;
        assert!(
            Comparison::of(&tensor, &Elements::Values(right), WeightDType::F32).is_err(),
            "{}",
            spec.name
        );
    }
    assert!(merged > 0);
}

#[test]
fn what_a_type_cannot_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(goldens("llama3/model")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let out = dir.path().join("out");
    let error = run(model.clone(), None, Some(WeightDType::F16), &out).unwrap_err().to_string();
    assert!(error.contains("--dtype bf16") && error.contains("too large for F16"), "{error}");
    assert!(!out.exists());
    run(model, None, Some(WeightDType::BF16), &out).unwrap();
}

//! GGUF files as models, against transformers, llama.cpp's Python package and SentencePiece
//! (`goldens/gguf_files.py`).

use std::path::{Path, PathBuf};

use finetune_host::data::Tokenizer;
use finetune_tests::{assert_close, events, fail, finetune, goldens, json_lines, number, plugins, succeed};
use serde_json::Value;

fn file(name: &str) -> PathBuf {
    goldens().join("gguf").join(format!("{name}.gguf"))
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(goldens().join("gguf/expected.json")).unwrap()).unwrap()
}

fn eval(model: &Path, backend: &str) -> Value {
    let mut command = finetune(["eval", "--json", "--precision", "f32", "--backend", backend]);
    command.args(["--seq-len", "32", "--model"]).arg(model).arg("--plugins").arg(plugins());
    command.arg("--data").arg(goldens().join("text/valid.jsonl"));
    events(&json_lines(&succeed(&mut command)), "eval")[0].clone()
}

/// Every kind of tensor, tied and untied, biases, Llama 3's and linear scaling, heads of a size of their own.
fn every_kind_like_transformers(backend: &str, tolerance: f64) {
    let expected = expected();
    let losses = expected["losses"].as_object().unwrap();
    assert_eq!(losses.len(), 6);
    for (name, want) in losses {
        let got = eval(&file(name), backend);
        assert_eq!(got["tokens"], want["tokens"], "{name}");
        assert_close(number(&got, "loss"), number(want, "loss"), tolerance, name);
    }
}

#[test]
fn every_kind_has_the_loss_that_transformers_computes() {
    every_kind_like_transformers("cpu", 1e-5);
}

#[test]
fn mlx_plugin_has_the_same_losses() {
    every_kind_like_transformers("mlx", 5e-4);
}

/// The tokenizer out of the metadata: GPT-2's way of cutting and SentencePiece's, on texts that trip others.
#[test]
fn texts_have_the_ids_of_the_original_tokenizers() {
    let expected = expected();
    for name in ["f32", "sentencepiece"] {
        let tokenizer = Tokenizer::from_model(&file(name)).unwrap();
        let cases = expected["encoded"][name].as_array().unwrap();
        assert!(cases.len() > 15);
        for case in cases {
            let want: Vec<u64> =
                case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            let text = case["text"].as_str().unwrap();
            let got = tokenizer.encode_prompt(text, true).unwrap();
            assert_eq!(got.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), want, "{name}: {text:?}");
        }
    }
}

fn train(model: &Path, method: &str, out: &Path, extra: &[&str]) -> Vec<Value> {
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--precision", "f32", "--lr", "2e-3"]);
    command.args(["--batch", "4", "--seq-len", "32", "--method", method, "--model"]).arg(model);
    command.arg("--data").arg(goldens().join("text/train.jsonl")).arg("--out").arg(out);
    json_lines(&succeed(command.arg("--plugins").arg(plugins()).args(extra)))
}

/// An exported GGUF file is a Hugging Face folder that means the same: loss, and the curves of training.
#[test]
fn a_gguf_file_trains_as_the_folder_made_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let mut export = finetune(["export", "--dtype", "f32", "--model"]);
    succeed(export.arg(file("q4_1")).arg("--out").arg(&folder));
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    assert_eq!(eval(&folder, "cpu")["loss"], eval(&file("q4_1"), "cpu")["loss"]);
    for method in ["full", "lora"] {
        let curve = |model: &Path, name: &str| {
            let lines = train(model, method, &dir.path().join(format!("{method}-{name}")), &["--steps", "4"]);
            let losses: Vec<f64> = events(&lines, "step").iter().map(|step| number(step, "loss")).collect();
            losses
        };
        let (from_file, from_folder) = (curve(&file("q4_1"), "file"), curve(&folder, "folder"));
        assert_eq!(from_file, from_folder, "{method}");
        assert_eq!(from_file.len(), 4);
    }
    // What a full run leaves is a folder that any program reads; what LoRA leaves is an adapter of the file.
    let model = dir.path().join("full-file/model");
    assert!(model.join("tokenizer.json").is_file());
    assert!(number(&eval(&model, "cpu"), "loss") < number(&eval(&file("q4_1"), "cpu"), "loss"));
}

/// A run that stopped goes on with the same file, bit for bit, and not with another.
#[test]
fn a_run_on_a_gguf_file_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("model.gguf");
    std::fs::copy(file("q8_0"), &own).unwrap();
    let whole = train(&own, "lora", &dir.path().join("whole"), &["--steps", "6"]);
    let part = dir.path().join("part");
    train(&own, "lora", &part, &["--steps", "3"]);
    let rest = train(&own, "lora", &part, &["--steps", "6", "--resume"]);
    let losses = |lines: &[Value]| -> Vec<f64> {
        events(lines, "step").iter().map(|step| number(step, "loss")).collect()
    };
    assert_eq!(losses(&rest), losses(&whole)[3..]);
    std::fs::copy(file("f32"), &own).unwrap();
    let mut other = finetune(["train", "--resume", "--steps", "8", "--backend", "cpu", "--method", "lora"]);
    other
        .args(["--precision", "f32", "--lr", "2e-3", "--batch", "4", "--seq-len", "32", "--model"])
        .arg(&own);
    other.arg("--data").arg(goldens().join("text/train.jsonl")).arg("--out").arg(&part);
    let message = fail(other.arg("--plugins").arg(plugins()));
    assert!(message.contains("model.gguf"), "{message}");
}

/// `generate` takes the tokenizer of the file, and ends at its end token.
#[test]
fn a_gguf_file_generates() {
    let generate = |model: &Path| {
        let mut command =
            finetune(["generate", "--backend", "cpu", "--precision", "f32", "--temperature", "0"]);
        command.args(["--max-tokens", "12", "--prompt", "The river"]).arg("--plugins").arg(plugins());
        succeed(command.arg("--model").arg(model))
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    succeed(finetune(["export", "--dtype", "f32", "--model"]).arg(file("f16")).arg("--out").arg(&folder));
    let text = generate(&file("f16"));
    assert_eq!(text, generate(&folder));
    assert!(!text.is_empty());
}

/// A cut file, at every place a tenth of it apart, is refused with its name, and never loaded in part.
#[test]
fn a_cut_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(file("q8_0")).unwrap();
    let cut = dir.path().join("cut.gguf");
    let ends = (0..10).map(|tenth| tenth * whole.len() / 10).chain([whole.len() - 1]);
    for end in ends {
        std::fs::write(&cut, &whole[..end]).unwrap();
        let mut command = finetune(["eval", "--backend", "cpu", "--model"]);
        command
            .arg(&cut)
            .arg("--data")
            .arg(goldens().join("text/valid.jsonl"))
            .arg("--plugins")
            .arg(plugins());
        let message = fail(&mut command);
        assert!(message.contains("cut.gguf"), "{end}: {message}");
    }
}

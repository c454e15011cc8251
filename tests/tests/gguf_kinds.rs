//! GGUF files as models, held to what the packages gguf, tokenizers and transformers make of the same files
//! (`tests/goldens/gguf_kinds.py`).

use std::path::{Path, PathBuf};

use finetune_host::data::Tokenizer;
use finetune_host::weights::{ModelFiles, WeightDType, convert::convert};
use finetune_tests::{assert_close, events, fail, finetune, goldens, json_lines, number, plugins, succeed};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Every file: a kind of tensors and a kind of tokenizer each.
const FILES: [&str; 6] = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"];

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(goldens().join("gguf-kinds/expected.json")).unwrap()).unwrap()
}

fn model(name: &str) -> PathBuf {
    goldens().join(format!("gguf-kinds/{name}.gguf"))
}

fn valid() -> PathBuf {
    goldens().join("text/valid.jsonl")
}

/// Runs on the CPU plugin in f32.
fn on_cpu(command: &str, model: &Path, extra: &[&str]) -> String {
    let mut command = finetune([command, "--backend", "cpu", "--precision", "f32"]);
    succeed(command.arg("--model").arg(model).arg("--plugins").arg(plugins()).args(extra))
}

fn loss(model: &Path, adapter: Option<&Path>) -> Value {
    let data = valid();
    let mut extra = vec!["--json", "--seq-len", "32", "--data", data.to_str().unwrap()];
    extra.extend(adapter.into_iter().flat_map(|adapter| ["--adapter", adapter.to_str().unwrap()]));
    let lines = json_lines(&on_cpu("eval", model, &extra));
    events(&lines, "eval")[0].clone()
}

/// Bit for bit, under Hugging Face's names and with the rows of q and k in its order.
#[test]
fn tensors_are_those_of_transformers() {
    let expected = expected();
    for name in FILES {
        let files = ModelFiles::open(&model(name)).unwrap();
        let tensors = files.tensors().unwrap();
        let hashes = expected["files"][name]["tensors"].as_object().unwrap();
        assert_eq!(tensors.len(), hashes.len(), "{name}");
        for (tensor, hash) in hashes {
            let view = tensors.get(tensor).unwrap_or_else(|| panic!("{name} has no {tensor}"));
            let bytes = convert(&view, WeightDType::F32).unwrap();
            let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, &found, "{name}: {tensor}");
        }
    }
}

/// Unicode, spaces, digits and special tokens, through every way of cutting.
#[test]
fn tokens_are_those_of_the_models_own_tokenizers() {
    let expected = expected();
    for name in FILES {
        let tokenizer = Tokenizer::from_model(&model(name)).unwrap();
        let golden = &expected["files"][name];
        let end = golden["end"].as_u64().unwrap() as u32;
        assert_eq!(tokenizer.end_id(), Some(end), "{name}");
        let ids = golden["ids"].as_array().unwrap();
        for (text, ids) in expected["texts"].as_array().unwrap().iter().zip(ids) {
            let text = text.as_str().unwrap();
            let mut ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            if ids.last() != Some(&end) {
                ids.push(end);
            }
            assert_eq!(tokenizer.encode(text, 1000).unwrap(), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn losses_are_those_of_transformers() {
    let expected = expected();
    for name in FILES {
        let (found, golden) = (loss(&model(name), None), &expected["files"][name]);
        assert_eq!(found["tokens"], golden["tokens"], "{name}");
        assert_close(number(&found, "loss"), number(golden, "loss"), 1e-5, name);
    }
}

/// An adapter trained on a file loads with it, is merged into it, and a full run leaves a folder; each has the loss
/// that the run ended with.
#[test]
fn training_starts_from_a_file_and_what_it_leaves_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (name, method) in [("q4_1", "lora"), ("f32", "full"), ("bf16", "full")] {
        let out = dir.path().join(format!("{name}-{method}"));
        let train = |steps: &str, resume: bool| {
            let mut command = finetune(["train", "--json", "--steps", steps, "--out"]);
            command.arg(&out).arg("--plugins").arg(plugins());
            match resume {
                true => command.arg("--resume"),
                false => command
                    .args(["--backend", "cpu", "--precision", "f32", "--seq-len", "32", "--batch", "4"])
                    .args(["--lr", "1e-2", "--save-every", "2", "--method", method, "--model"])
                    .arg(model(name))
                    .arg("--data")
                    .arg(goldens().join("text/train.jsonl"))
                    .arg("--valid")
                    .arg(valid()),
            };
            json_lines(&succeed(&mut command))
        };
        train("2", false);
        let lines = train("4", true);
        let evals = events(&lines, "eval");
        let after = number(evals.last().unwrap(), "loss");
        let before = number(&expected()["files"][name], "loss");
        assert!(after < before, "{name}: {before} to {after}");
        let (model_after, adapter) = match method {
            "full" => (out.join("model"), None),
            _ => (model(name), Some(out.join("adapter"))),
        };
        let found = number(&loss(&model_after, adapter.as_deref()), "loss");
        assert_close(found, after, 1e-6, &format!("{name}: what was saved"));
        if let Some(adapter) = &adapter {
            let merged = dir.path().join("merged");
            let mut command = finetune(["export", "--dtype", "f32", "--model"]);
            command.arg(model(name)).arg("--adapter").arg(adapter).arg("--out").arg(&merged);
            succeed(&mut command);
            assert_close(number(&loss(&merged, None), "loss"), after, 1e-5, "what was merged");
        }
        let saved = if method == "full" { out.join("model") } else { dir.path().join("merged") };
        same_tokens(&model(name), &saved);
        let checkpoint = out.join("checkpoints");
        assert!(checkpoint.read_dir().unwrap().count() > 0, "{name}");
    }
    report(dir.path());
}

/// A folder made of a file has its tokenizer.
fn same_tokens(file: &Path, folder: &Path) {
    let [ours, theirs] = [file, folder].map(|path| Tokenizer::from_model(path).unwrap());
    for text in expected()["texts"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        assert_eq!(ours.encode(text, 1000).unwrap(), theirs.encode(text, 1000).unwrap(), "{text:?}");
    }
    assert_eq!(ours.end_ids(), theirs.end_ids());
}

fn report(runs: &Path) {
    let page = runs.join("page.html");
    let mut command = finetune(["report"]);
    succeed(command.arg(runs.join("q4_1-lora")).arg("--out").arg(&page));
    assert!(std::fs::read_to_string(page).unwrap().contains("q4_1"));
}

/// The template is in the file; chat rows and `--chat` use it.
#[test]
fn conversations_use_the_files_own_template() {
    let dir = tempfile::tempdir().unwrap();
    let rows =
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}"#;
    let data = dir.path().join("chat.jsonl");
    std::fs::write(&data, rows).unwrap();
    let extra = ["--json", "--data", data.to_str().unwrap()];
    let lines = json_lines(&on_cpu("eval", &model("q4_1"), &extra));
    // What the assistant says, and its end token.
    let tokenizer = Tokenizer::from_model(&model("q4_1")).unwrap();
    let says = tokenizer.encode("Hello.<|eot|>", 100).unwrap().len() - 1;
    assert_eq!(number(events(&lines, "eval")[0], "tokens"), says as f64);
    let extra = ["--chat", "--prompt", "Hi", "--temperature", "0", "--max-tokens", "4"];
    let chat = on_cpu("generate", &model("q4_1"), &extra);
    let by_hand = ["--prompt", "<s>user: Hi<|eot|>assistant: ", "--temperature", "0", "--max-tokens", "4"];
    assert_eq!(chat, on_cpu("generate", &model("q4_1"), &by_hand));
    let told = on_cpu("generate", &model("q4_1"), &[&extra[..], &["--system", "Be brief"]].concat());
    let prompt = "<s>system: Be brief<|eot|>user: Hi<|eot|>assistant: ";
    let by_hand = ["--prompt", prompt, "--temperature", "0", "--max-tokens", "4"];
    assert_eq!(told, on_cpu("generate", &model("q4_1"), &by_hand));
    let mut command = finetune(["generate", "--backend", "cpu", "--chat", "--prompt", "Hi", "--model"]);
    let message = fail(command.arg(model("f16")).arg("--plugins").arg(plugins()));
    assert!(message.contains("no chat template"), "{message}");
}

/// Weights that are no numbers are named as what is wrong, not the learning rate, and nobody gets a loss of NaN.
#[test]
fn weights_that_are_no_numbers_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.gguf");
    let mut bytes = std::fs::read(model("f32")).unwrap();
    let middle = bytes.len() / 2 / 4 * 4;
    // All of a row of whatever matrix is there.
    bytes[middle..middle + 4000].as_chunks_mut::<4>().0.fill(f32::NAN.to_le_bytes());
    std::fs::write(&damaged, bytes).unwrap();
    let refused = |command: &str, extra: &[&str], words: &[&str]| {
        let mut command = finetune([command, "--model"]);
        let message = fail(command.arg(&damaged).args(extra));
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    };
    let (plugins, data, out) = (plugins(), valid(), dir.path().join("out"));
    let (plugins, data, out) = (plugins.to_str().unwrap(), data.to_str().unwrap(), out.to_str().unwrap());
    let cpu = ["--backend", "cpu", "--precision", "f32", "--plugins", plugins];
    let on = |extra: &[&'static str]| [&cpu[..], extra].concat();
    let seq = on(&["--seq-len", "32", "--data"]);
    refused("eval", &[&seq[..], &[data]].concat(), &["damaged.gguf", "loss is NaN", "weights"]);
    refused(
        "train",
        &[&seq[..], &[data, "--steps", "1", "--out", out]].concat(),
        &["before anything", "weights"],
    );
    refused("generate", &on(&["--prompt", "Hello there"]), &["NaN", "weights are damaged"]);
    refused("export", &["--out", &format!("{out}-exported")], &["NaN", "no finite number"]);
}

/// Sentences for what is beside the point.
#[test]
fn what_is_no_file_of_a_model_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, words: &[&str]| {
        let mut command = finetune(["eval", "--backend", "cpu", "--model"]);
        let message = fail(command.arg(path).arg("--data").arg(valid()).arg("--plugins").arg(plugins()));
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
    };
    let inside = dir.path().join("small.gguf");
    std::fs::copy(model("q4_1"), &inside).unwrap();
    refused(dir.path(), &["give the file itself", "small.gguf"]);
    let bytes = std::fs::read(&inside).unwrap();
    std::fs::write(&inside, &bytes[..bytes.len() - 100]).unwrap();
    refused(&inside, &["small.gguf", "cut off"]);
    std::fs::write(&inside, "<!DOCTYPE html>").unwrap();
    refused(&inside, &["small.gguf", "GGUF", "web page"]);
    refused(&dir.path().join("none.gguf"), &["none.gguf"]);
}

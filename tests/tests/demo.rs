//! The model that comes with the program, and what `cargo xtask demo` does with it.

use std::path::{Path, PathBuf};

use finetune_tests::{assert_close, events, finetune, json_lines, number, plugins, succeed};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Bytes of all its files together.
const LARGEST: u64 = 8_000_000;
/// Its loss on text that it never saw is recorded in demo/README.md; this is a little more.
const HELD_OUT_LOSS: f64 = 2.25;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo")
}

fn eval(data: &str, adapter: Option<&Path>) -> f64 {
    eval_on("cpu", data, adapter)
}

fn eval_on(backend: &str, data: &str, adapter: Option<&Path>) -> f64 {
    let mut command =
        finetune(["eval", "--json", "--backend", backend, "--precision", "f32", "--seq-len", "256"]);
    command.arg("--plugins").arg(plugins()).arg("--model").arg(demo().join("model"));
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    let lines = json_lines(&succeed(command.arg("--data").arg(demo().join(data))));
    number(events(&lines, "eval")[0], "loss")
}

/// It travels with every clone of the repository.
#[test]
fn the_model_is_small_and_the_one_that_is_described() {
    let sums = std::fs::read_to_string(demo().join("box/SHA256SUMS")).unwrap();
    let mut described: Vec<String> = vec![];
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").expect("a line of sha256sum");
        if let Some(name) = name.strip_prefix("model/") {
            let bytes = std::fs::read(demo().join("model").join(name)).unwrap();
            let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, sum, "{name}");
            described.push(name.into());
        }
    }
    let files = std::fs::read_dir(demo().join("model")).unwrap().map(Result::unwrap);
    let mut bytes = 0;
    let mut names: Vec<String> = vec![];
    for file in files {
        bytes += file.metadata().unwrap().len();
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    described.sort();
    assert_eq!(names, described);
    assert!(names.contains(&"model.safetensors".into()), "{names:?}");
    assert!(bytes <= LARGEST, "{bytes} bytes");
}

#[test]
fn the_model_knows_its_english() {
    let loss = eval("box/sample.jsonl", None);
    assert!(loss < HELD_OUT_LOSS, "{loss}");
}

#[test]
fn mlx_plugin_and_cpu_find_the_same_loss_of_the_model() {
    let [cpu, mlx] = ["cpu", "mlx"].map(|backend| eval_on(backend, "box/sample.jsonl", None));
    assert_close(mlx, cpu, 1e-5, "loss of the sample");
}

/// The demo's recipe, a part of its steps: entries of the log that it did not see become likelier.
#[test]
fn the_model_learns_a_new_voice() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let before = eval("style/valid.jsonl", None);
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--rank", "16", "--alpha", "32"]);
    command.args([
        "--batch",
        "8",
        "--seq-len",
        "128",
        "--lr",
        "3e-3",
        "--schedule",
        "cosine",
        "--warmup",
        "10",
    ]);
    command.args(["--steps", "40"]).arg("--plugins").arg(plugins());
    command.arg("--model").arg(demo().join("model"));
    command.arg("--data").arg(demo().join("style/train.jsonl"));
    let lines: Vec<Value> = json_lines(&succeed(command.arg("--out").arg(&out)));
    assert_eq!(events(&lines, "step").len(), 40);
    let after = eval("style/valid.jsonl", Some(&out.join("adapter")));
    assert!(after < before - 1.0, "{before} before, {after} after");
}

//! The real SmolLM2-135M against transformers and PEFT (`tests/real/golden.py`). Needs the model's folder in
//! `FINETUNE_REAL_MODEL`: `cargo xtask test --real-model` fetches it.

use std::path::{Path, PathBuf};

use finetune_host::data::Tokenizer;
use finetune_tests::{assert_close, events, finetune, json_lines, number, plugins, succeed};
use serde_json::Value;

/// How far a loss may be from torch's in f32, relative.
const LOSS: f64 = 1e-4;

fn real() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("real/data")
}

fn model() -> PathBuf {
    let folder = std::env::var_os("FINETUNE_REAL_MODEL");
    folder.expect("FINETUNE_REAL_MODEL is not set; run `cargo xtask test --real-model`").into()
}

fn like_torch(method: &str, adapter: bool) {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(real().join("expected.json")).unwrap()).unwrap();
    let expected = &expected[method];
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let steps = expected["steps"].as_array().unwrap();
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--precision", "f32", "--no-shuffle"]);
    command.args(["--method", method, "--weight-decay", "0.01", "--clip", "1", "--save-every", "0"]);
    for key in ["lr", "seq-len", "batch"] {
        command.arg(format!("--{key}")).arg(expected[key].to_string());
    }
    command.arg("--steps").arg(steps.len().to_string()).arg("--model").arg(model()).arg("--out").arg(&out);
    command.arg("--data").arg(real().join("train.jsonl")).arg("--valid").arg(real().join("valid.jsonl"));
    if adapter {
        command.arg("--adapter").arg(real().join("adapter"));
    }
    let lines = json_lines(&succeed(command.arg("--plugins").arg(plugins())));
    let got = events(&lines, "step");
    assert_eq!(got.len(), steps.len());
    for (got, want) in got.iter().zip(steps) {
        assert_eq!(got["tokens"], want["tokens"]);
        assert_close(
            number(got, "loss"),
            number(want, "loss"),
            LOSS,
            &format!("{method}, step {}", want["step"]),
        );
    }
    let evals = events(&lines, "eval");
    let (before, after) = (number(evals[0], "loss"), number(evals[1], "loss"));
    assert_close(before, number(&expected["eval_before"], "loss"), LOSS, "held-out loss before");
    assert_close(after, number(&expected["eval_after"], "loss"), LOSS, "held-out loss after");
    assert!(after < before, "held-out loss went from {before} to {after}");
    saved_is_what_was_evaluated(&out, adapter, after);
}

/// What the run leaves behind, loaded again by `finetune eval`, has the loss that the run ended with.
fn saved_is_what_was_evaluated(out: &Path, adapter: bool, loss: f64) {
    let mut command =
        finetune(["eval", "--json", "--backend", "cpu", "--precision", "f32", "--seq-len", "128"]);
    match adapter {
        true => command.arg("--model").arg(model()).arg("--adapter").arg(out.join("adapter")),
        false => command.arg("--model").arg(out.join("model")),
    };
    command.arg("--data").arg(real().join("valid.jsonl")).arg("--plugins").arg(plugins());
    let lines = json_lines(&succeed(&mut command));
    assert_close(number(events(&lines, "eval")[0], "loss"), loss, 1e-6, "loss of what was saved");
}

#[test]
fn real_model_trains_fully_like_torch() {
    like_torch("full", false);
}

#[test]
fn real_model_trains_adapters_like_peft() {
    like_torch("lora", true);
}

fn generate(model: &Path, extra: &[&str]) -> String {
    let mut command =
        finetune(["generate", "--backend", "cpu", "--precision", "f32", "--temperature", "0", "--model"]);
    succeed(command.arg(model).arg("--plugins").arg(plugins()).args(extra))
}

fn answers(model: &Path) {
    let text = generate(model, &["--prompt", "The capital of France is", "--max-tokens", "2"]);
    assert_eq!(text, " Paris.");
    let text = generate(model, &["--chat", "--prompt", "What is the capital of France?"]);
    assert_eq!(text, "The capital of France is Paris.");
}

/// The greedy answer, and that the model's end of a turn ends it.
#[test]
fn real_model_answers() {
    answers(&model());
}

/// The file that the folder was made of: the same tokens, losses and answers, out of its own metadata.
#[test]
fn real_model_is_the_same_from_its_gguf_file() {
    let file = model().join("smollm2-135m.gguf");
    answers(&file);
    let [ours, theirs] = [&file, &model()].map(|model| Tokenizer::from_model(model).unwrap());
    assert_eq!(ours.encode_prompt("The capital of France is", true).unwrap(), [504, 3575, 282, 4649, 314]);
    for name in ["train.jsonl", "valid.jsonl"] {
        let text = std::fs::read_to_string(real().join(name)).unwrap();
        assert_eq!(ours.encode_prompt(&text, true).unwrap(), theirs.encode_prompt(&text, true).unwrap());
    }
    let loss = |model: &Path| {
        let mut command = finetune(["eval", "--json", "--backend", "cpu", "--precision", "f32", "--model"]);
        command.arg(model).args(["--seq-len", "128", "--data"]).arg(real().join("valid.jsonl"));
        let lines = json_lines(&succeed(command.arg("--plugins").arg(plugins())));
        number(events(&lines, "eval")[0], "loss")
    };
    // The folder's weights are rounded to bf16, the file's are not.
    assert_close(loss(&file), loss(&model()), 2e-3, "held-out loss");
}

/// A few steps on conversations, straight from the GGUF file, give its answers another manner: what the README shows.
#[test]
fn real_model_learns_a_manner_from_conversations() {
    let file = model().join("smollm2-135m.gguf");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/chat");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--precision", "f32", "--lr", "1e-3"]);
    command.args([
        "--schedule",
        "cosine",
        "--warmup",
        "1",
        "--steps",
        "8",
        "--seq-len",
        "256",
        "--save-every",
        "0",
    ]);
    command.arg("--model").arg(&file).arg("--data").arg(demo.join("train.jsonl")).arg("--out").arg(&out);
    command.arg("--valid").arg(demo.join("valid.jsonl")).arg("--plugins").arg(plugins());
    let lines = json_lines(&succeed(&mut command));
    let [before, after] = events(&lines, "eval")[..] else { panic!("two held-out losses: {lines:?}") };
    assert!(number(after, "loss") < number(before, "loss") - 1.0, "{before}, {after}");
    let asked = ["--chat", "--max-tokens", "40", "--prompt", "What is the capital of France?"];
    let adapter = out.join("adapter");
    let taught = generate(&file, &[&asked[..], &["--adapter", adapter.to_str().unwrap()]].concat());
    assert!(taught.contains("Ahoy") && taught.contains("Paris"), "{taught}");
    assert!(!generate(&file, &asked).contains("Ahoy"));
}

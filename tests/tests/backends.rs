//! One back end against another: the same seed gives the same run.

use finetune_tests::{assert_close, candle, events, finetune, goldens, json_lines, number, plugins, succeed};
use serde_json::Value;

/// A short run of everything that is drawn at random: the order of examples, the first adapters, dropout.
fn train(backend: &str, precision: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = finetune(["train", "--json", "--backend", backend, "--precision", precision]);
    command.args([
        "--method",
        "lora",
        "--rank",
        "4",
        "--dropout",
        "0.1",
        "--batch",
        "4",
        "--micro-batch",
        "3",
    ]);
    command.args(["--seq-len", "32", "--lr", "1e-2", "--warmup", "2", "--seed", "7", "--steps", "8"]);
    command.arg("--plugins").arg(plugins()).arg("--model").arg(goldens().join("llama3/model"));
    command.arg("--data").arg(goldens().join("text/train.jsonl")).arg("--out").arg(dir.path().join("run"));
    json_lines(&succeed(&mut command))
}

fn same_losses(backend: &str, precision: &str, tolerance: f64) {
    let [cpu, other] = ["cpu", backend].map(|backend| train(backend, precision));
    let [cpu, other] = [&cpu, &other].map(|lines| events(lines, "step"));
    assert_eq!((cpu.len(), other.len()), (8, 8));
    for (cpu, other) in cpu.iter().zip(&other) {
        assert_eq!(cpu["tokens"], other["tokens"]);
        let what = format!("{backend}, {precision}, step {}", cpu["step"]);
        assert_close(number(other, "loss"), number(cpu, "loss"), tolerance, &what);
    }
}

/// Dropout that differed in one mask would be off by far more.
#[test]
fn candle_and_cpu_give_the_same_losses() {
    same_losses(&candle(), "f32", 1e-4);
}

#[test]
fn candle_and_cpu_give_the_same_losses_in_bf16() {
    same_losses(&candle(), "bf16", 1e-2);
}

/// Dropout that differed in one mask would be off by far more.
#[test]
fn mlx_plugin_and_cpu_give_the_same_losses() {
    same_losses("mlx", "f32", 1e-4);
}

#[test]
fn mlx_plugin_and_cpu_give_the_same_losses_in_bf16() {
    same_losses("mlx", "bf16", 1e-2);
}

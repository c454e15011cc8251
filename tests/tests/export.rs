//! `finetune export`: what comes out is the model with its adapter.

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_tests::{assert_close, events, fail, finetune, goldens, json_lines, number, plugins, succeed};

fn export(model: &Path, adapter: Option<&Path>, dtype: &str, out: &Path) -> Command {
    let mut command = finetune(["export", "--json", "--dtype", dtype]);
    command.arg("--model").arg(model).arg("--out").arg(out);
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    command
}

fn loss(model: &Path, adapter: Option<&Path>) -> f64 {
    let mut command =
        finetune(["eval", "--json", "--backend", "cpu", "--precision", "f32", "--seq-len", "32"]);
    command.arg("--plugins").arg(plugins()).arg("--model").arg(model);
    command.arg("--data").arg(goldens().join("text/valid.jsonl"));
    if let Some(adapter) = adapter {
        command.arg("--adapter").arg(adapter);
    }
    number(events(&json_lines(&succeed(&mut command)), "eval")[0], "loss")
}

fn cases() -> [(PathBuf, PathBuf); 4] {
    [
        ("llama3/model", "llama3/lora-all-linear/adapter_final"),
        ("gpt2/model-noprefix", "gpt2/lora-all-linear/adapter_final"),
        ("gpt2/model", "merged/gpt2/adapter"),
        ("llama2/model-sharded", "merged/llama2/adapter"),
    ]
    .map(|(model, adapter)| (goldens().join(model), goldens().join(adapter)))
}

/// The loss is that of base and adapter, and not that of the base alone.
#[test]
fn an_export_is_the_model_with_its_adapter() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (model, adapter)) in cases().iter().enumerate() {
        let (full, half) = (dir.path().join(format!("{i}-f32")), dir.path().join(format!("{i}-bf16")));
        let lines = json_lines(&succeed(&mut export(model, Some(adapter), "f32", &full)));
        assert!(number(events(&lines, "exported")[0], "merged") > 0.0);
        let want = loss(model, Some(adapter));
        assert_close(loss(&full, None), want, 1e-6, &format!("{} in f32", model.display()));
        let moved = (loss(model, None) - want).abs() / want;
        assert!(moved > 1e-3, "{}: the adapter does something", model.display());
        succeed(&mut export(model, Some(adapter), "bf16", &half));
        assert_close(loss(&half, None), want, 2e-3, &format!("{} in bf16", model.display()));
    }
}

#[test]
fn what_cannot_be_exported_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = &cases()[0];
    std::fs::write(dir.path().join("mine"), "kept").unwrap();
    let message = fail(&mut export(model, None, "f32", dir.path()));
    assert!(message.contains("overwrites nothing"), "{message}");
    let out = dir.path().join("out");
    let message = fail(&mut export(&model.join("config.json"), None, "f32", &out));
    assert!(message.contains("without weights"), "{message}");
    let message = fail(&mut export(model, Some(&cases()[3].1), "f32", &out));
    assert!(message.contains("adapter"), "{message}");
    let message = fail(&mut export(model, None, "f32", &dir.path().join("mine")));
    assert!(message.contains("mine"), "{message}");
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"], "nothing else is left");
}

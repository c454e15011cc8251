//! The log tells what was decided and why, on standard error; standard output stays what it is.

use std::path::Path;
use std::process::Command;

use finetune_tests::misbehaving::{c_manifest, place, place_c, place_with};
use finetune_tests::{finetune, goldens, json_lines};
use serde_json::json;

fn train(folder: &Path, out: &Path) -> Command {
    let mut command = finetune(["train", "--json", "--method", "lora", "--rank", "2", "--steps", "2"]);
    command.args(["--batch", "2", "--seq-len", "16", "--backend", "good"]);
    command.arg("--model").arg(goldens().join("llama2/model"));
    command.arg("--data").arg(goldens().join("text/train.jsonl"));
    command.arg("--out").arg(out).arg("--plugins").arg(folder);
    command
}

/// What a command wrote to standard output, each line of which has to be a JSON object, and to standard error.
#[track_caller]
fn run(command: &mut Command) -> (usize, String) {
    let output = command.output().expect("the program starts");
    let log = String::from_utf8(output.stderr).expect("standard error is UTF-8");
    assert!(output.status.success(), "{log}");
    let lines = json_lines(std::str::from_utf8(&output.stdout).expect("standard output is UTF-8"));
    (lines.len(), log)
}

#[track_caller]
fn assert_has(log: &str, words: &[&str]) {
    for word in words {
        assert!(log.contains(word), "{word:?} is missing in the log:\n{log}");
    }
}

/// A refused plugin and the way of the one that is used can be understood from the log alone.
#[test]
fn the_log_tells_of_plugins_programs_memory_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    place(&folder, "good", "");
    place_with(&folder, "other-major", "", |manifest| {
        manifest.insert("api".into(), json!("2.0.0"));
    });
    place_c(&folder, "no-module", &[("MANIFEST", &c_manifest("no-module", "1.0.0"))]);

    let (plain_lines, plain) = run(&mut train(&folder, &dir.path().join("plain")));
    assert!(!plain.contains("INFO") && !plain.contains("DEBUG"), "nobody asked for a log: {plain}");

    let (lines, log) = run(train(&folder, &dir.path().join("once")).arg("-v"));
    assert_eq!(lines, plain_lines, "the log is no part of standard output");
    assert_has(&log, &["INFO", "good:0 is used", "compiled the program to accumulate", "to apply a step"]);
    assert_has(&log, &["planned for", "bytes of tensors", "step-00000002 is written and synced"]);
    assert!(!log.contains("DEBUG"), "{log}");

    let (lines, log) = run(train(&folder, &dir.path().join("twice")).arg("-vv"));
    assert_eq!(lines, plain_lines);
    assert_has(
        &log,
        &["another major version", "2.0.0", "no code of a plugin", "native: ", "attention", "is open"],
    );
    let by_variable = |directives: &str, out: &str| {
        run(train(&folder, &dir.path().join(out)).env("FINETUNE_LOG", directives)).1
    };
    assert_has(&by_variable("debug", "debug"), &["DEBUG", "native: "]);
    let narrow = by_variable("warn,finetune_host::train::checkpoint=info", "narrow");
    assert_has(&narrow, &["is written and synced"]);
    assert!(!narrow.contains("compiled the program"), "{narrow}");
}

/// A filter with a mistake in it would else be a log that says nothing.
#[test]
fn a_filter_that_is_none_is_refused() {
    let mut command = finetune(["plugins", "list", "--json"]);
    let message = finetune_tests::fail(command.env("FINETUNE_LOG", "finetune_host=loud"));
    assert_has(&message, &["FINETUNE_LOG", "finetune_host=loud", "debug"]);
}

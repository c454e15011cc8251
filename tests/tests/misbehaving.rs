//! Plugins that misbehave, driven through the program: each costs a row or an error with its own sentence.

use std::path::{Path, PathBuf};

use finetune_tests::misbehaving::{self, c_manifest, place, place_c, place_with};
use finetune_tests::{fail, finetune, goldens, succeed};
use serde_json::{Value, json};

fn list(folder: &Path) -> Vec<Value> {
    let mut command = finetune(["plugins", "list", "--json"]);
    let text = succeed(command.arg("--plugins").arg(folder));
    let catalog: Value = serde_json::from_str(&text).expect("one JSON object");
    catalog["plugins"].as_array().expect("rows").clone()
}

/// The row of a file, its status and its reason.
#[track_caller]
fn row(rows: &[Value], name: &str) -> (String, String) {
    let file = misbehaving::file_name(name);
    let row = rows.iter().find(|row| row["path"].as_str().is_some_and(|path| path.ends_with(&file)));
    let row = row.unwrap_or_else(|| panic!("{name} has no row in {rows:#?}"));
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// The candidate is refused, with these words in its reason.
#[track_caller]
fn refused(rows: &[Value], name: &str, words: &[&str]) {
    let (status, reason) = row(rows, name);
    assert_eq!(status, "refused", "{name}: {reason}");
    for word in words {
        assert!(reason.contains(word), "{name}: {word:?} is missing in: {reason}");
    }
}

fn train(folder: &Path, backend: &str, out: &Path) -> std::process::Command {
    let mut command = finetune(["train", "--json", "--method", "lora", "--rank", "2", "--steps", "3"]);
    command.args(["--batch", "2", "--seq-len", "16", "--seed", "3", "--backend", backend]);
    command.arg("--model").arg(goldens().join("llama2/model"));
    command.arg("--data").arg(goldens().join("text/train.jsonl"));
    command.arg("--out").arg(out).arg("--plugins").arg(folder);
    command
}

/// What the other tests stand on: without a misbehaviour the plugin is ready, and it trains.
#[test]
fn the_plugin_that_misbehaves_is_a_good_one_underneath() {
    let dir = tempfile::tempdir().unwrap();
    place(dir.path(), "good", "");
    assert_eq!(row(&list(dir.path()), "good"), ("ready".into(), String::new()));
    succeed(&mut train(dir.path(), "good", &dir.path().join("run")));
}

/// Manifests are read as data: whatever they say, a plugin that is good is ready beside them, and what cannot be
/// loaded was not loaded.
#[test]
fn manifests_that_are_wrong_cost_a_row_and_run_no_code() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let api = |name: &str, version: &str| -> PathBuf {
        let ran = dir.path().join(name);
        place_with(&folder, name, &format!("load: touch {}", ran.display()), |manifest| {
            manifest.insert("api".into(), json!(version));
        });
        ran
    };
    let ran = [api("other-major", "2.0.0"), api("newer-minor", "1.7.0"), api("no-version", "one")];
    place(&folder, "good", "");
    let unparsable = "\"{\\\"name\\\": \\\"cut\"";
    place_c(&folder, "no-json", &[("MANIFEST", unparsable)]);
    place_c(&folder, "bad-name", &[("MANIFEST", &c_manifest("Bad Name", "1.0.0"))]);
    place_c(&folder, "no-module", &[("MANIFEST", &c_manifest("no-module", "1.0.0"))]);
    place_c(&folder, "noise", &[("MANIFEST", &c_manifest("noise", "1.0.0")), ("HEADER", "4096")]);
    misbehaving::place_other_layout(&folder);
    place_c(&folder, "endless", &[("MANIFEST", &c_manifest("endless", "1.0.0")), ("UNTERMINATED", "1")]);
    place_with(&folder, "second", "", |manifest| {
        manifest.insert("name".into(), json!("good"));
    });

    let rows = list(&folder);
    assert_eq!(row(&rows, "good").0, "ready");
    refused(&rows, "other-major", &["2.0.0", "rebuild the plugin against 1.x"]);
    refused(&rows, "newer-minor", &["1.7.0", "update finetune"]);
    refused(&rows, "no-version", &["\"one\"", "which is none"]);
    refused(&rows, "no-json", &["broken manifest"]);
    refused(&rows, "bad-name", &["broken manifest", "Bad Name", "lower-case"]);
    refused(&rows, "no-module", &["no code of a plugin"]);
    refused(&rows, "noise", &["abi_stable"]);
    refused(&rows, "layout", &["layout"]);
    refused(&rows, "endless", &["manifest"]);
    refused(&rows, "second", &["has the name good", "which comes first"]);
    assert_eq!(rows.len(), 11);
    for file in ran {
        assert!(!file.exists(), "a plugin that is refused by its manifest was loaded: {}", file.display());
    }
}

/// Errors and panics of a plugin's calls are errors of the command, with the plugin's words, and no panic of ours.
#[test]
fn calls_that_fail_say_which_back_end_and_why() {
    let dir = tempfile::tempdir().unwrap();
    for (name, behaviour, words) in [
        ("open-fails", "open: error unavailable", ["open-fails", "unavailable", "made up for a test"]),
        ("compile-panics", "compile: panic", ["compile-panics", "panicked", "a plugin's panic"]),
    ] {
        place(dir.path(), name, behaviour);
        let message = fail(&mut train(dir.path(), name, &dir.path().join(name)));
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains("RUST_BACKTRACE") || name == "compile-panics", "{message}");
    }
}

/// A plugin's words go to a terminal and into files; they must not take one over or fill the other.
#[test]
fn a_plugins_message_is_short_and_nothing_that_a_terminal_obeys() {
    let dir = tempfile::tempdir().unwrap();
    for (name, behaviour, words) in
        [("escapes", "step 2: say oneESC[2Jtwo", "two"), ("talks", "step 2: say much", "much much much")]
    {
        place(dir.path(), name, behaviour);
        let message = fail(&mut train(dir.path(), name, &dir.path().join(name)));
        assert!(message.contains(words), "{message}");
        assert!(!message.contains('\u{1b}') && message.len() < 20_000, "{} bytes", message.len());
    }
}

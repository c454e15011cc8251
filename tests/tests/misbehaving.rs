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

/// Libraries under a plugin may fail when the process takes them down. What was done by then is done.
#[test]
fn a_library_that_dies_at_the_end_of_the_process_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    place(dir.path(), "late", "probe: at-exit; open: at-exit");
    assert_eq!(row(&list(dir.path()), "late"), ("ready".into(), String::new()));
    succeed(&mut train(dir.path(), "late", &dir.path().join("run")));
    let mut eval = finetune(["eval", "--json", "--backend", "late", "--seq-len", "16"]);
    eval.arg("--model").arg(goldens().join("llama2/model"));
    eval.arg("--data").arg(goldens().join("text/train.jsonl")).arg("--plugins").arg(dir.path());
    assert!(succeed(&mut eval).contains("\"loss\""));
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
    refused(&rows, "endless", &["finetune_plugin_manifest leads to no NUL-terminated text"]);
    refused(&rows, "second", &["has the name good", "which comes first"]);
    assert_eq!(rows.len(), 11);
    for file in ran {
        assert!(!file.exists(), "a plugin that is refused by its manifest was loaded: {}", file.display());
    }
}

/// Whatever keeps a file from being a plugin is found without running any code of it, and each has its own words.
#[cfg(target_os = "linux")]
#[test]
fn files_that_are_refused_unread_and_unasked_run_no_code() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let ran = dir.path().join("ran");
    let code = format!("load: touch {}", ran.display());
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let file = place(&folder, name, &code);
        let mut bytes = std::fs::read(&file).unwrap();
        change(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    // What a library is for stands at fixed places of its header.
    let arm = 183_u16.to_le_bytes();
    with("machine", &|bytes| {
        bytes[18..20].copy_from_slice(if cfg!(target_arch = "x86_64") { &arm } else { &[62, 0] })
    });
    with("system", &|bytes| bytes[7] = 9);
    with("cut", &|bytes| bytes.truncate(bytes.len() / 2));
    let open = with("open", &|_| ());
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = place(&outside, "target", &code);
    std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(target, folder.join(misbehaving::file_name("linked"))).unwrap();
    // It needs a library that is there when it is built, and then is not.
    let needed = dir.path().join("libgone.so");
    let source = dir.path().join("gone.c");
    std::fs::write(&source, "int gone(void) { return 1; }\n").unwrap();
    let mut cc = std::process::Command::new("cc");
    assert!(cc.args(["-shared", "-o"]).arg(&needed).arg(&source).status().unwrap().success());
    let at_load = format!("close(creat(\"{}\", 0600))", ran.display());
    let search = format!("-L{}", dir.path().display());
    let definitions = [("MANIFEST", c_manifest("lacks", "1.0.0")), ("AT_LOAD", at_load)];
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-include", "fcntl.h", "-o"]);
    cc.arg(folder.join(misbehaving::file_name("lacks"))).arg(misbehaving::c_source());
    cc.args(definitions.map(|(key, value)| format!("-D{key}={value}"))).args([&search, "-lgone"]);
    assert!(cc.status().unwrap().success());
    std::fs::remove_file(needed).unwrap();

    let rows = list(&folder);
    refused(&rows, "machine", &["is a library for", "processors; this program needs one for"]);
    refused(&rows, "system", &["is a library for FreeBSD; this system needs one for Linux"]);
    refused(&rows, "cut", &["cut off"]);
    refused(&rows, "open", &["may be written by everyone", "chmod go-w"]);
    refused(&rows, "linked", &["lies in a folder that is not safe", "chmod go-w"]);
    refused(&rows, "lacks", &["needs libgone.so, which is not installed or not found"]);
    assert_eq!(rows.len(), 6);
    assert!(!ran.exists(), "code of a file that is refused has run");
    // The proof that it would have been seen.
    place(&folder, "runs", &code);
    assert_eq!(row(&list(&folder), "runs").0, "ready");
    assert!(ran.exists());
}

/// What a plugin does while it is loaded and asked happens to a child: each is a row with its own reason, the good
/// plugin among them is ready, and nothing is left running.
#[cfg(target_os = "linux")]
#[test]
fn plugins_that_die_hang_or_lie_when_they_are_asked_cost_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let left = dir.path().join("left");
    let leave = format!("probe: leave {}; device: x", left.display());
    let cases = [
        ("load-segv", "load: segv", "crashed while it was asked (SIGSEGV)"),
        ("load-exit", "load: exit 0", "exit code 0 instead of answering"),
        ("load-panic", "load: panic", "SIGABRT"),
        ("load-hang", "load: hang", "did not answer within 3 s"),
        ("probe-segv", "probe: segv", "crashed while it was asked (SIGSEGV)"),
        ("probe-abort", "probe: abort", "SIGABRT"),
        ("probe-kill", "probe: kill", "SIGKILL"),
        ("probe-exit", "probe: exit 0", "exit code 0 instead of answering"),
        ("probe-exit-3", "probe: exit 3", "exit code 3 instead of answering"),
        ("probe-loop", "probe: loop", "did not answer within 3 s"),
        ("probe-stop", "probe: stop", "stopped itself"),
        ("probe-flood", "probe: flood", "did not answer within 3 s"),
        ("probe-forge", "probe: forge", "exit code 0 instead of answering"),
        ("probe-garbage", "probe: garbage", "gave an answer that is none"),
        ("probe-panic", "probe: panic", "a plugin's panic"),
        ("probe-error", "probe: error internal", "internal error: made up for a test"),
    ];
    for (name, behaviour, _) in cases {
        place(&folder, name, behaviour);
    }
    place(&folder, "good", "");
    let mut command = finetune(["plugins", "list", "--json", "--probe-timeout", "3"]);
    command.env("FINETUNE_CACHE_DIR", dir.path().join("cache"));
    let text = succeed(command.arg("--plugins").arg(&folder));
    let catalog: Value = serde_json::from_str(&text).expect("what a plugin prints is no part of the list");
    let rows = catalog["plugins"].as_array().unwrap();
    assert_eq!(row(rows, "good"), ("ready".into(), String::new()));
    assert_eq!(rows.len(), cases.len() + 1);
    for (name, _, words) in cases {
        refused(rows, name, &[words]);
    }
    let alone = dir.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    place(&alone, "leaves", &leave);
    assert_eq!(row(&list(&alone), "leaves").0, "ready");
    let process = std::fs::read_to_string(&left).expect("the plugin started a process");
    assert!(!runs(process.trim()), "process {process}, which a plugin had started, still runs");
    assert_eq!(processes_with(&folder), Vec::<String>::new(), "children of the program are left");
}

/// Whether a process is there and is no zombie.
#[cfg(target_os = "linux")]
fn runs(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

/// Processes that have a library of that folder loaded, or name it.
#[cfg(target_os = "linux")]
fn processes_with(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let names = |path: &PathBuf, file: &str| {
        let bytes = std::fs::read(path.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(folder)
    };
    let with = entries.filter(|path| names(path, "maps") || names(path, "cmdline"));
    with.map(|path| path.display().to_string()).filter(|path| path[6..].parse::<u32>().is_ok()).collect()
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
        [("escapes", "step: say oneESC[2Jtwo", "two"), ("talks", "step: say much", "much much much")]
    {
        place(dir.path(), name, behaviour);
        let message = fail(&mut train(dir.path(), name, &dir.path().join(name)));
        assert!(message.contains(words), "{message}");
        assert!(!message.contains('\u{1b}') && message.len() < 20_000, "{} bytes", message.len());
    }
}

//! A plugin built against version 1.0.0 of the interface goes on working as the interface grows, and one that asks for
//! a later version is refused with its sentence. tests/frozen says what is built here.

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_tests::misbehaving::file_name;
use finetune_tests::{assert_close, events, fail, finetune, goldens, json_lines, number, plugins, succeed};
use serde_json::{Value, json};

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen").join(name)
}

/// Where these workspaces are built: not among the products of this one.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("frozen")
}

fn built(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Builds a workspace; with what is already here, if that is enough.
fn build(workspace: &Path) {
    let cargo = |network: &str| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", network, "--target-dir"]).arg(target()).current_dir(workspace);
        cargo.output().expect("cargo runs")
    };
    let mut output = cargo("--offline");
    if !output.status.success() {
        output = cargo("--quiet");
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The library of the plugin that was written for version 1.0.0.
fn frozen_plugin() -> PathBuf {
    build(&kept("plugin-1.0"));
    built(&file_name("finetune_frozen"))
}

/// The library of a plugin that asks for version 1.1.0, and a host that has it.
fn grown() -> (PathBuf, PathBuf) {
    let (work, repository) = (target().join("growth"), kept("../.."));
    copy(&kept("growth"), &work);
    copy(&repository.join("plugin-api"), &work.join("plugin-api"));
    std::fs::copy(repository.join("Cargo.lock"), work.join("Cargo.lock")).unwrap();
    let mut patch = Command::new("git");
    // Without a repository around it, git applies a patch to the folder that it stands in.
    patch.args(["apply", "../growth.patch"]).env("GIT_CEILING_DIRECTORIES", &work).env_remove("GIT_DIR");
    let output = patch.current_dir(work.join("plugin-api")).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    build(&work);
    let host = format!("finetune-grown-host{}", std::env::consts::EXE_SUFFIX);
    (built(&file_name("finetune_newer")), built(&host))
}

/// A folder as another one is. What was there before is gone.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(std::fs::copy(&path, &to).unwrap()),
        }
    }
}

/// A folder with one plugin in it.
fn folder_of(library: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(library, folder.path().join(library.file_name().unwrap())).unwrap();
    folder
}

fn only_row(folder: &Path) -> Value {
    let mut command = finetune(["plugins", "list", "--json"]);
    let text = succeed(command.arg("--plugins").arg(folder));
    let catalog: Value = serde_json::from_str(&text).expect("one JSON object");
    let [row] = catalog["plugins"].as_array().expect("rows").as_slice() else {
        panic!("one row is expected: {catalog}")
    };
    row.clone()
}

fn train(backend: &str, folder: &Path, out: &Path) -> Command {
    let mut command = finetune(["train", "--json", "--method", "lora", "--rank", "2", "--steps", "3"]);
    command.args([
        "--batch",
        "2",
        "--seq-len",
        "16",
        "--seed",
        "3",
        "--dropout",
        "0.1",
        "--backend",
        backend,
    ]);
    command.arg("--model").arg(goldens().join("llama2/model"));
    command.arg("--data").arg(goldens().join("text/train.jsonl"));
    command.arg("--out").arg(out).arg("--plugins").arg(folder);
    command
}

/// The promise of the interface: what was built against 1.0 trains in today's host, to the same losses.
#[test]
fn a_plugin_of_version_1_0_trains_in_this_host() {
    let (folder, out) = (folder_of(&frozen_plugin()), tempfile::tempdir().unwrap());
    let row = only_row(folder.path());
    assert_eq!(
        (&row["name"], &row["api"], &row["status"]),
        (&json!("frozen"), &json!("1.0.0"), &json!("ready"))
    );
    let run = |backend: &str, folder: &Path| {
        let lines = json_lines(&succeed(&mut train(backend, folder, &out.path().join(backend))));
        events(&lines, "step").into_iter().map(|step| number(step, "loss")).collect::<Vec<_>>()
    };
    let (frozen, cpu) = (run("frozen", folder.path()), run("cpu", &plugins()));
    assert_eq!((frozen.len(), cpu.len()), (3, 3));
    for (frozen, cpu) in frozen.iter().zip(&cpu) {
        assert_close(*frozen, *cpu, 1e-4, "the frozen plugin's loss");
    }
}

/// Growth by a minor version, seen from both sides: a grown host lowers what an old plugin cannot know, and today's
/// host refuses a plugin that asks for more than it has, by its manifest and, should that lie, by its code.
#[test]
fn the_interface_grows_and_old_and_new_meet() {
    let old = frozen_plugin();
    let (newer, host) = grown();
    let lines = json_lines(&succeed(Command::new(host).args([&old, &newer])));
    let [in_old, in_newer] = lines.as_slice() else { panic!("two lines: {lines:?}") };

    assert_eq!((&in_old["host"], &in_old["plugin"]), (&json!("1.1.0"), &json!("1.0.0")));
    assert_eq!((&in_newer["host"], &in_newer["plugin"]), (&json!("1.1.0"), &json!("1.1.0")));
    let ops = |line: &Value| line["handed_over"].as_array().unwrap().clone();
    assert!(
        !ops(in_old).contains(&json!("softcap")),
        "the old plugin got an op that it cannot know: {in_old}"
    );
    assert!(ops(in_old).contains(&json!("tanh")) && ops(in_old).contains(&json!("activation")), "{in_old}");
    assert_eq!(ops(in_newer), [json!("softcap"), json!("activation"), json!("add")]);
    assert_eq!(in_old["clock"], Value::Null);
    assert_eq!(in_newer["clock"], json!({"frequency": 1000, "double": 42}));
    for (i, x) in [-3.0_f64, -0.5, 1.0, 8.0].into_iter().enumerate() {
        let capped = 2.0 * (x / 2.0).tanh();
        let y = capped / (1.0 + (-capped).exp());
        for line in [in_old, in_newer] {
            assert_close(line["y"][i].as_f64().unwrap(), y, 1e-6, "the output");
            assert_close(line["sum"][i].as_f64().unwrap(), 2.0 * y, 1e-6, "the state after two runs");
        }
    }

    let words =
        ["was built against version 1.1.0", "this finetune has 1.0.0, which is older", "update finetune"];
    let honest = folder_of(&newer);
    let lying = tempfile::tempdir().unwrap();
    std::fs::write(lying.path().join(file_name("lying")), with_another_manifest(&newer)).unwrap();
    for folder in [honest.path(), lying.path()] {
        let row = only_row(folder);
        assert_eq!(row["status"], "refused");
        let out = tempfile::tempdir().unwrap();
        let message = fail(&mut train("newer", folder, &out.path().join("run")));
        for word in words {
            assert!(row["reason"].as_str().unwrap().contains(word), "{word:?} is missing in: {row}");
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    }
}

/// The library with a manifest that claims an older version than its code has.
fn with_another_manifest(library: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(library).unwrap();
    let (claim, lie) = (b"\"api\":\"1.1.0\"", b"\"api\":\"1.0.0\"");
    let at = bytes.windows(claim.len()).position(|window| window == claim).expect("the manifest names it");
    bytes[at..at + lie.len()].copy_from_slice(lie);
    bytes
}

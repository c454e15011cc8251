//! A program that has more rights than whoever starts it does not do what their environment says.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use finetune_tests::{binary, misbehaving};
use serde_json::Value;

/// Someone without rights.
const NOBODY: u32 = 65_534;

fn list(program: &Path, plugins: &Path, cache: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["plugins", "list", "--json"]).env("FINETUNE_PLUGIN_PATH", plugins);
    command
        .env("FINETUNE_CACHE_DIR", cache)
        .env("FINETUNE_LOG", "debug")
        .env("FINETUNE_PROBE_TIMEOUT", "nonsense");
    command.env("HOME", cache).env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME");
    command
}

fn run(mut command: Command) -> (Value, String, bool) {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let list = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (list, errors, output.status.success())
}

/// The environment names a folder of plugins, a cache, a log and a time that is none. It counts for root, and for a
/// program that is root by its file's owner it does not.
#[test]
fn as_root_a_set_user_id_program_ignores_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, cache) = (dir.path().join("named"), dir.path().join("cache"));
    for folder in [&plugins, &cache] {
        fs::create_dir(folder).unwrap();
    }
    misbehaving::place(&plugins, "named", "");
    let program = dir.path().join("finetune");
    fs::copy(binary(), &program).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();

    let mut plain = list(&program, &plugins, &cache);
    plain.env("FINETUNE_PROBE_TIMEOUT", "20");
    let (rows, errors, ok) = run(plain);
    assert!(ok && errors.contains("DEBUG"), "{errors}");
    assert_eq!(rows["plugins"][0]["name"], "named", "plain root is a user like others");
    let misled = list(&program, &plugins, &cache);
    assert!(!run(misled).2, "a time that is none is an error, where the environment is asked");
    fs::remove_dir_all(&cache).unwrap();

    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut raised = list(&program, &plugins, &cache);
    raised.uid(NOBODY).gid(NOBODY).current_dir("/");
    let (rows, errors, ok) = run(raised);
    assert!(ok, "{errors}");
    assert_eq!(rows["plugins"].as_array().map(Vec::len), Some(0), "{rows}");
    assert!(!errors.contains("DEBUG"), "{errors}");
    assert!(!cache.exists(), "the cache is where the environment says");
}

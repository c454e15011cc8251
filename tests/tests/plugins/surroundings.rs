//! The list where the system is not as a program expects it: odd paths, no cache, no temporary folder.

use std::fs;
use std::path::Path;
use std::process::Command;

use finetune_tests::{fail, finetune, goldens, json_lines, succeed};

use super::{Place, device};

/// A path need not be Unicode: plugins, the program itself, model and data are found, asked, measured, remembered and
/// used under any name that the system allows.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_no_unicode_work_like_others() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let odd = OsStr::from_bytes(b"odd\xff");
    let place = Place::new();
    let (aaa, bbb) = (place.cpu_as("aaa"), place.cpu_as("bbb"));
    let home = place.folder.path().join(odd);
    let folder = home.join("plugins");
    fs::create_dir_all(&folder).unwrap();
    let renamed = folder.join(OsStr::from_bytes(b"bad\xff.so"));
    fs::rename(&bbb, &renamed).unwrap();
    fs::rename(&aaa, folder.join("aaa.so")).unwrap();
    let over = |args: &[&str]| {
        let mut command = finetune(args);
        command.arg("--plugins").arg(&folder).env("FINETUNE_CACHE_DIR", home.join("cache"));
        command
    };
    let list = || json_lines(&succeed(&mut over(&["plugins", "list", "--json"]))).remove(0);
    let first = list();
    assert_eq!(first["plugins"].as_array().unwrap().len(), 2);
    for row in first["plugins"].as_array().unwrap() {
        assert_eq!(row["status"], "ready", "{first}");
        assert!(row["devices"][0]["score"].as_f64().is_some(), "{first}");
    }
    assert!(first["plugins"][1]["path"].as_str().unwrap().ends_with("bad\u{fffd}.so"), "{first}");
    assert_eq!(list(), first, "measured again");
    assert!(succeed(&mut over(&["plugins", "list"])).contains("bbb:0"));

    let program = home.join("finetune");
    fs::copy(finetune_tests::binary(), &program).unwrap();
    let mut beside = Command::new(&program);
    beside.args(["plugins", "list", "--json"]).env("FINETUNE_CACHE_DIR", home.join("cache"));
    beside.env_remove("FINETUNE_PLUGIN_PATH").env("XDG_DATA_HOME", home.join("data"));
    let found = json_lines(&succeed(&mut beside)).remove(0);
    assert!(found["plugins"].as_array().unwrap().iter().all(|row| row["status"] == "ready"), "{found}");

    let (model, data, out) = (home.join("model"), home.join("data.jsonl"), home.join("run"));
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(goldens().join("llama3/model")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    fs::copy(goldens().join("text/train.jsonl"), &data).unwrap();
    let train = |extra: &[&OsStr]| {
        let mut command = over(&["train", "--json", "--batch", "2", "--seq-len", "16", "--backend", "bbb"]);
        command.args(extra).arg("--model").arg(&model).arg("--data").arg(&data).arg("--out").arg(&out);
        command
    };
    let ran = json_lines(&succeed(&mut train(&["--steps".as_ref(), "1".as_ref()])));
    assert_eq!(ran[0]["backend"], "bbb");
    // The run folder knows the same paths later, with and without being told.
    let ran = json_lines(&succeed(&mut train(&["--resume".as_ref(), "--steps".as_ref(), "2".as_ref()])));
    assert_eq!(ran[0]["resumed_from"], 1);
    let mut alone = finetune(["train", "--json", "--resume", "--steps", "3"]);
    let ran = json_lines(&succeed(alone.arg("--out").arg(&out)));
    assert_eq!((&ran[0]["resumed_from"], &ran[0]["backend"]), (&2.into(), &"bbb".into()));
    let other = home.join("other.jsonl");
    fs::copy(&data, &other).unwrap();
    let mut alone = finetune(["train", "--resume"]);
    let error = fail(alone.arg("--out").arg(&out).arg("--data").arg(&other));
    assert!(error.contains("odd\u{fffd}/other.jsonl, but the run was started with"), "{error}");

    for (flag, name) in [("--model", "nothing"), ("--data", "nothing.jsonl")] {
        let mut command = over(&["train", "--steps", "1"]);
        for (other, path) in [("--model", &model), ("--data", &data)] {
            if other != flag {
                command.arg(other).arg(path);
            }
        }
        command.arg(flag).arg(home.join(name)).arg("--out").arg(home.join("never"));
        let error = fail(&mut command);
        assert!(error.contains(&format!("odd\u{fffd}/{name}")) && !error.contains("panicked"), "{error}");
    }
}

/// A cache folder that is named and not used is told of, once, and so is that there is none; nothing else changes.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_folder_that_is_not_used_is_told_of() {
    let place = Place::new();
    place.cpu_as("aaa");
    let list = |variables: &[(&str, &Path)]| {
        let mut command = finetune(["plugins", "list", "--json"]);
        command.arg("--plugins").arg(place.folder.path()).current_dir(place.cache.path());
        for name in ["FINETUNE_CACHE_DIR", "XDG_CACHE_HOME", "HOME"] {
            command.env_remove(name);
        }
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let list = json_lines(&String::from_utf8(output.stdout).unwrap()).remove(0);
        assert_eq!(list["plugins"][0]["status"], "ready");
        String::from_utf8(output.stderr).unwrap()
    };
    let (relative, home) = (Path::new("relative"), place.cache.path());
    let said = list(&[("FINETUNE_CACHE_DIR", relative), ("HOME", home)]);
    let used = home.join(".cache/finetune");
    let words = format!("names the folder relative, which must be absolute; {} is used", used.display());
    assert_eq!(said.matches(&words).count(), 1, "{said}");
    assert!(used.join("plugins.jsonl").exists() && !home.join("relative").exists());
    for variables in [&[][..], &[("HOME", relative)]] {
        let said = list(variables);
        assert_eq!(said.matches("is not kept").count(), 1, "{said}");
    }
    assert!(!list(&[("HOME", home)]).contains("WARN"), "what is as it should be needs no word");
}

/// The small models of the calibration step need no folder to be written into.
#[cfg(unix)]
#[test]
fn devices_are_measured_where_there_is_no_temporary_folder() {
    let place = Place::new();
    place.cpu_as("aaa");
    place.cpu_as("bbb");
    let mut command = place.command(&["plugins", "list", "--json"]);
    let list = json_lines(&succeed(command.env("TMPDIR", "/nowhere/at/all"))).remove(0);
    for plugin in 0..2 {
        assert!(device(&list, plugin)["score"].as_f64().is_some(), "{list}");
    }
}

//! The list of plugins as a person gets it: measured, ranked, remembered, refused.

mod surroundings;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use finetune_tests::{fail, finetune, goldens, json_lines, misbehaving, plugins, succeed};
use serde_json::Value;
use tempfile::TempDir;

/// A folder of plugins and a cache of its own.
struct Place {
    folder: TempDir,
    cache: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    fn file(&self, stem: &str) -> PathBuf {
        self.folder.path().join(format!("{stem}.{}", std::env::consts::DLL_EXTENSION))
    }

    /// The CPU plugin under a name of three letters.
    fn cpu_as(&self, name: &str) -> PathBuf {
        let library = format!("{}finetune_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let mut bytes = fs::read(plugins().join(library)).unwrap();
        let (from, to) = (b"\"name\":\"cpu\"", format!("\"name\":\"{name}\""));
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from).expect("a manifest");
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        fs::write(self.file(name), bytes).unwrap();
        self.file(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = finetune(args);
        command.arg("--plugins").arg(self.folder.path()).env("FINETUNE_CACHE_DIR", self.cache.path());
        command
    }

    fn list(&self) -> Value {
        json_lines(&succeed(&mut self.command(&["plugins", "list", "--json"]))).remove(0)
    }

    fn table(&self) -> String {
        succeed(&mut self.command(&["plugins", "list"]))
    }
}

fn device(list: &Value, plugin: usize) -> &Value {
    &list["plugins"][plugin]["devices"][0]
}

/// Speeds are never compared with a number; that the faster is first, and that it is measured once, is the contract.
#[test]
fn several_devices_are_measured_once_and_ranked_by_it() {
    let place = Place::new();
    place.cpu_as("aaa");
    assert!(device(&place.list(), 0)["score"].is_null(), "there is nothing to choose from");
    place.cpu_as("bbb");
    let list = place.list();
    let score = |plugin| device(&list, plugin)["score"].as_f64().expect("a score");
    let rank = |plugin| device(&list, plugin)["rank"].as_u64().expect("a rank");
    assert!(score(0) > 0.0 && score(1) > 0.0);
    assert_eq!(rank(0) + rank(1), 3);
    let (first, second) = if rank(0) == 1 { (0, 1) } else { (1, 0) };
    // Within a tie the order is by name.
    assert!(score(first) > 0.9 * score(second), "{list}");
    assert_eq!(place.list(), list, "measured again");
    let table = place.table();
    assert!(table.starts_with("RANK  BACK END") && table.contains("tok/s"), "{table}");
}

/// One that cannot train is demoted with the reason, and can still be asked for.
#[test]
fn a_users_word_beats_the_rank() {
    let place = Place::new();
    place.cpu_as("aaa");
    place.cpu_as("bbb");
    let run = |index: u32, args: &[&str], variable: Option<&str>| {
        let out = place.folder.path().join(format!("run{index}"));
        let mut command =
            place.command(&["train", "--json", "--steps", "1", "--seq-len", "32", "--batch", "2"]);
        command.args(args).arg("--model").arg(goldens().join("llama3/model")).arg("--out").arg(out);
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        if let Some(variable) = variable {
            command.env("FINETUNE_BACKEND", variable);
        }
        json_lines(&succeed(&mut command))[0]["backend"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(0, &["--backend", "bbb"], None), "bbb");
    assert_eq!(run(1, &[], Some("bbb")), "bbb");
    assert_eq!(run(2, &["--backend", "aaa:0"], Some("bbb")), "aaa");
    let cache = fs::read_to_string(place.cache.path().join("plugins.jsonl")).unwrap();
    assert!(!cache.contains("tokens_per_s"), "there was nothing to measure for");
}

/// What is in a folder, an environment or a file of settings is said by the user, and the nearest word counts.
#[test]
fn a_file_of_settings_beats_the_rank_and_is_beaten_by_a_flag() {
    let place = Place::new();
    place.cpu_as("aaa");
    place.cpu_as("bbb");
    let config = place.folder.path().join("run.toml");
    fs::write(&config, "backend = \"bbb\"\nsteps = 1\nbatch = 2\nseq-len = 16\n").unwrap();
    let run = |out: &str, args: &[&str]| {
        let mut command = place.command(&["train", "--json"]);
        command.args(args).arg("--config").arg(&config).arg("--model").arg(goldens().join("llama3/model"));
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        command.arg("--out").arg(place.folder.path().join(out));
        json_lines(&succeed(&mut command))[0]["backend"].as_str().unwrap().to_owned()
    };
    assert_eq!(run("file", &[]), "bbb");
    assert_eq!(run("flag", &["--backend", "aaa"]), "aaa");
}

/// A job goes where its memory is: what is planned for it counts against what is free, whatever the speed.
#[test]
fn a_job_that_does_not_fit_goes_to_the_next_device_and_it_is_said() {
    let place = Place::new();
    place.cpu_as("zzz");
    // The model's file has less than that many bytes; weights, moments, gradients and activations have more.
    let model = goldens().join("llama3/model");
    let weights = fs::metadata(model.join("model.safetensors")).unwrap().len();
    misbehaving::place(
        place.folder.path(),
        "small",
        &format!("memory: {}; device: gpu", weights + (1 << 16)),
    );
    let train = |out: &str| {
        let mut command = place.command(&["train", "--json", "--method", "full", "--steps", "1", "-v"]);
        command.args(["--seq-len", "16", "--batch", "2", "--precision", "f32"]).arg("--model").arg(&model);
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        let output = command.arg("--out").arg(place.folder.path().join(out)).output().unwrap();
        (output.status.success(), json_lines(&String::from_utf8(output.stdout).unwrap()), output.stderr)
    };
    let (trained, lines, errors) = train("auto");
    let errors = String::from_utf8_lossy(&errors).into_owned();
    assert!(trained && lines[0]["backend"] == "zzz", "{errors}");
    assert!(errors.contains("small:0 has 0.0 GiB of memory"), "{errors}");
    assert!(errors.contains("foreseen in f32"), "{errors}");
}

/// What can change without the file's changing is not remembered: memory that was taken, a library that the system's
/// loader did not find.
#[test]
fn what_may_pass_is_asked_again() {
    let place = Place::new();
    let mark = place.folder.path().join("once");
    for kind in ["out-of-memory", "device-lost", "unavailable"] {
        let _ = fs::remove_file(&mark);
        misbehaving::place(
            place.folder.path(),
            "busy",
            &format!("probe: error {kind}; once: {}", mark.display()),
        );
        assert_ne!(place.list()["plugins"][0]["status"], "ready", "{kind}");
        assert_eq!(place.list()["plugins"][0]["status"], "ready", "{kind} is remembered");
    }
    let _ = fs::remove_file(&mark);
    misbehaving::place(
        place.folder.path(),
        "busy",
        &format!("probe: error internal; once: {}", mark.display()),
    );
    for _ in 0..2 {
        assert_eq!(
            place.list()["plugins"][0]["status"],
            "refused",
            "a fault of the plugin's own is remembered"
        );
    }
    // Nor does a device stay behind because others had its memory when it was measured.
    place.cpu_as("zzz");
    for (kind, remembered) in [("out-of-memory", false), ("internal", true)] {
        misbehaving::place(place.folder.path(), "busy", &format!("run: error {kind}"));
        assert!(device(&place.list(), 0)["score"].is_null());
        let cache = fs::read_to_string(place.cache.path().join("plugins.jsonl")).unwrap();
        assert_eq!(cache.contains("failed in the calibration step"), remembered, "{kind}");
    }
}

/// The file that is loaded is the file that was asked, whoever swaps it in between.
#[cfg(unix)]
#[test]
fn a_file_that_is_swapped_while_it_is_asked_is_not_taken_for_the_one_that_was() {
    let place = Place::new();
    let other = tempfile::tempdir().unwrap();
    let slow = misbehaving::place(place.folder.path(), "aaa", "probe: slow 1500");
    let bad = misbehaving::place(other.path(), "aaa", "open: abort");
    let list = std::thread::scope(|scope| {
        let list = scope.spawn(|| place.list());
        std::thread::sleep(std::time::Duration::from_millis(700));
        fs::rename(&bad, &slow).unwrap();
        list.join().unwrap()
    });
    let reason = list["plugins"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("changed while it was asked"), "{list}");
    assert_eq!(place.list()["plugins"][0]["status"], "ready", "the new one, asked anew");
}

/// Files by the thousand, and such as claim to be larger than any disk, are rows like others.
#[cfg(target_os = "linux")]
#[test]
fn many_and_huge_files_cost_rows_and_little_else() {
    let place = Place::new();
    for i in 0..1000 {
        fs::write(place.file(&format!("junk-{i:04}")), vec![0x7f; i]).unwrap();
    }
    let cpu = place.cpu_as("cpu");
    let huge = place.file("huge");
    fs::copy(&cpu, &huge).unwrap();
    fs::File::options().write(true).open(&huge).unwrap().set_len(1 << 40).unwrap();
    let list = place.list();
    let rows = list["plugins"].as_array().unwrap();
    assert_eq!(rows.len(), 1002);
    let ready: Vec<&Value> = rows.iter().filter(|row| row["status"] == "ready").collect();
    assert!(ready.len() == 1 && ready[0]["path"].as_str().unwrap().ends_with("cpu.so"), "{ready:?}");
    let row = rows.iter().find(|row| row["path"].as_str().unwrap().ends_with("huge.so")).unwrap();
    assert!(row["reason"].as_str().unwrap().contains("is larger than"), "{row}");
}

/// Hosts that start at once over a cache that is damaged all see the same, and leave one that can be used.
#[test]
fn hosts_at_once_over_a_damaged_cache_see_the_same() {
    let place = Place::new();
    for (name, behaviour) in [("a", ""), ("b", "probe: error internal"), ("c", "probe: abort")] {
        misbehaving::place(place.folder.path(), name, behaviour);
    }
    let expected = place.list();
    let file = place.cache.path().join("plugins.jsonl");
    let good = fs::read(&file).unwrap();
    for round in 0..3 {
        let mut bytes = good.clone();
        match round {
            0 => bytes.truncate(good.len() / 2),
            1 => bytes[good.len() / 2] ^= 4,
            _ => bytes.clear(),
        }
        fs::write(&file, bytes).unwrap();
        std::thread::scope(|scope| {
            let hosts: Vec<_> = (0..6).map(|_| scope.spawn(|| place.list())).collect();
            for host in hosts {
                let list = host.join().unwrap();
                let names = |list: &Value| -> Vec<Value> {
                    list["plugins"].as_array().unwrap().iter().map(|row| row["status"].clone()).collect()
                };
                assert_eq!(names(&list), names(&expected));
            }
        });
        let after = fs::read_to_string(&file).unwrap();
        assert!(after.lines().count() == 2 && after.contains("\"a\""), "{after}");
        let left = fs::read_dir(place.cache.path()).unwrap().count();
        assert_eq!(left, 2, "the cache and its lock");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_refusal_is_remembered_with_its_time_until_retry() {
    let place = Place::new();
    let source = place.folder.path().join("bad.c");
    let manifest = r#"{\"name\":\"bad\",\"version\":\"1\",\"api\":\"1.0.0\",\"vendor\":\"v\",\"license\":\"l\",\"description\":\"d\"}"#;
    let note = place.folder.path().join("runs");
    let code = format!(
        "#include <stdio.h>\n#include <stdlib.h>\nconst char finetune_plugin_manifest[] = \"{manifest}\";\n\
         __attribute__((constructor)) static void at_load(void) {{\n\
         FILE *f = fopen(\"{}\", \"a\"); fputs(\"x\", f); fclose(f); abort(); }}\n",
        note.display()
    );
    fs::write(&source, code).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(place.file("bad")).arg(&source).status();
    assert!(status.expect("a C compiler").success());
    let first = place.table();
    assert!(first.contains("refused: bad: ") && first.contains("SIGABRT"), "{first}");
    assert!(!first.contains("asks again"), "{first}");
    let second = place.table();
    assert!(second.contains("(found a moment ago; `finetune plugins retry bad` asks again)"), "{second}");
    let runs = || fs::read_to_string(&note).unwrap();
    assert_eq!(runs(), "x");
    assert!(succeed(&mut place.command(&["plugins", "retry", "bad"])).contains("SIGABRT"));
    assert_eq!(runs(), "xx");
    let error = fail(&mut place.command(&["plugins", "retry", "other"]));
    assert!(error.contains("no plugin \"other\""), "{error}");
    assert_eq!(runs(), "xx");
}

/// No code of such a file runs, and the command that mends it does mend it.
#[cfg(unix)]
#[test]
fn what_others_may_write_is_refused_until_it_is_mended() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let file = place.cpu_as("aaa");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let list = place.list();
    assert_eq!(list["plugins"][0]["status"], "refused", "{list}");
    let reason = list["plugins"][0]["reason"].as_str().unwrap().to_owned();
    let command = reason.split('`').nth(1).expect("a command");
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    assert_eq!(place.list()["plugins"][0]["status"], "ready");
}

/// Whatever state it is in, the cache is a help and never a condition.
#[test]
fn a_cache_that_cannot_be_read_or_written_changes_nothing() {
    let place = Place::new();
    place.cpu_as("aaa");
    let first = place.list();
    fs::write(place.cache.path().join("plugins.jsonl"), "{\"format\":1,").unwrap();
    let same = |list: &Value| (list["plugins"][0]["status"].clone(), device(list, 0)["name"].clone());
    assert_eq!(same(&place.list()), same(&first));
    let mut nowhere = place.command(&["plugins", "list", "--json"]);
    nowhere.env("FINETUNE_CACHE_DIR", "/dev/null/no");
    assert_eq!(same(&json_lines(&succeed(&mut nowhere))[0]), same(&first));
}

/// A device that hangs or fails while it is measured comes last, with the reason, and is not waited for twice; nobody
/// waits for the hundredth device of a plugin.
#[test]
fn a_device_that_cannot_be_measured_is_demoted_and_another_trains() {
    let place = Place::new();
    place.cpu_as("zzz");
    misbehaving::place(place.folder.path(), "hangs", "run: hang; device: gpu");
    misbehaving::place(place.folder.path(), "fails", "run: error internal; device: gpu; devices: 40");
    let quick = |args: &[&str]| {
        let mut command = place.command(args);
        command.env("FINETUNE_MEASURE_TIMEOUT", "4");
        command
    };
    let list = json_lines(&succeed(&mut quick(&["plugins", "list", "--json"]))).remove(0);
    let rows = list["plugins"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{list}"));
    assert_eq!(row("zzz")["devices"][0]["rank"], 1, "{list}");
    for (name, index, words) in
        [("hangs", 0, "measured"), ("fails", 0, "internal"), ("fails", 39, "only the first 16")]
    {
        let device = &row(name)["devices"][index];
        assert!(device["score"].is_null() && device["rank"].as_u64() > Some(1), "{device}");
        assert!(device["note"].as_str().unwrap_or_default().contains(words), "{device}");
    }
    let cache = fs::read_to_string(place.cache.path().join("plugins.jsonl")).unwrap();
    assert!(cache.contains("in f32 it took too long"), "bf16 is not tried after that: {cache}");
    let mut train = quick(&["train", "--json", "--steps", "1", "--seq-len", "16", "--batch", "2"]);
    train
        .arg("--model")
        .arg(goldens().join("llama3/model"))
        .arg("--out")
        .arg(place.folder.path().join("run"));
    train.arg("--data").arg(goldens().join("text/train.jsonl"));
    assert_eq!(json_lines(&succeed(&mut train))[0]["backend"], "zzz");
}

/// Whoever puts other bytes into the same file and sets its time back is noticed: it is asked anew, not run unasked.
#[cfg(unix)]
#[test]
fn a_file_with_new_bytes_and_an_old_time_is_asked_again() {
    let place = Place::new();
    misbehaving::place(place.folder.path(), "aaa", "");
    let file = place.folder.path().join(misbehaving::file_name("aaa"));
    assert_eq!(place.list()["plugins"][0]["status"], "ready");
    let time = file.metadata().unwrap().modified().unwrap();
    let other = tempfile::tempdir().unwrap();
    misbehaving::place(other.path(), "aaa", "probe: abort");
    let bytes = fs::read(other.path().join(misbehaving::file_name("aaa"))).unwrap();
    assert_eq!(bytes.len() as u64, file.metadata().unwrap().len());
    let mut opened = fs::File::options().write(true).open(&file).unwrap();
    std::io::Write::write_all(&mut opened, &bytes).unwrap();
    opened.set_modified(time).unwrap();
    drop(opened);
    let list = place.list();
    assert_eq!(list["plugins"][0]["status"], "refused", "{list}");
}

/// A library that a plugin needs and that is gone is named, and the plugin is ready as soon as it is back.
#[cfg(target_os = "linux")]
#[test]
fn a_missing_library_is_a_row_until_it_is_back() {
    let place = Place::new();
    let folder = place.folder.path();
    let build = |name: &str, source: &str, rest: &[&str]| {
        let file = folder.join(format!("{name}.c"));
        fs::write(&file, source).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"])
            .arg(folder.join(format!("{name}.so")))
            .arg(file);
        assert!(cc.args(rest).status().expect("a C compiler").success());
    };
    let manifest = r#"{\"name\":\"c\",\"version\":\"1\",\"api\":\"1.0.0\",\"vendor\":\"v\",\"license\":\"l\",\"description\":\"d\"}"#;
    build("libneeded", "int f(void) { return 1; }\n", &[]);
    let search = format!("-L{}", folder.display());
    let code = format!("const char finetune_plugin_manifest[] = \"{manifest}\";\n");
    build("plugin", &code, &[&search, "-lneeded", "-Wl,-rpath,$ORIGIN/lib"]);
    let reason = |place: &Place| {
        let list = place.list();
        let rows = list["plugins"].as_array().unwrap().clone();
        let own = rows.into_iter().find(|row| row["path"].as_str().unwrap().ends_with("plugin.so")).unwrap();
        own["reason"].as_str().unwrap().to_owned()
    };
    let missing = reason(&place);
    assert!(
        missing.contains("needs libneeded.so") && missing.contains("not installed or not found"),
        "{missing}"
    );
    fs::create_dir(folder.join("lib")).unwrap();
    fs::rename(folder.join("libneeded.so"), folder.join("lib/libneeded.so")).unwrap();
    let found = reason(&place);
    assert!(!found.contains("libneeded"), "it is looked at again, and has other faults: {found}");
}

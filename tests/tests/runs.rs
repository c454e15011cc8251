//! Runs as wholes: resuming, stopping, being killed, splitting batches, and what is refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use finetune_tests::{
    assert_close, candle, events, example_plugin, fail, finetune, goldens, json_lines, number, plugins,
    succeed,
};
use serde_json::Value;

fn model() -> PathBuf {
    goldens().join("llama3/model")
}

fn data() -> PathBuf {
    goldens().join("text/train.jsonl")
}

/// A short run of everything that has state: dropout, shuffling, warmup, accumulation.
fn train(out: &Path, steps: u64, extra: &[&str]) -> Command {
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--method", "lora", "--rank", "4"]);
    command.args([
        "--dropout",
        "0.1",
        "--batch",
        "4",
        "--micro-batch",
        "3",
        "--seq-len",
        "32",
        "--lr",
        "1e-2",
    ]);
    command.args(["--warmup", "2", "--seed", "7", "--save-every", "2"]).args(["--steps", &steps.to_string()]);
    command.arg("--plugins").arg(plugins()).arg("--model").arg(model()).arg("--data").arg(data());
    command.arg("--out").arg(out).args(extra);
    command
}

fn losses(lines: &[Value]) -> Vec<(u64, u64)> {
    let steps = events(lines, "step");
    steps.iter().map(|step| (step["step"].as_u64().unwrap(), number(step, "loss").to_bits())).collect()
}

fn metrics(out: &Path) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap())
}

fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_in_two_parts_is_the_unbroken_one_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let unbroken = losses(&json_lines(&succeed(&mut train(&whole, 9, &[]))));
    let first = losses(&json_lines(&succeed(&mut train(&parts, 5, &[]))));
    let second = losses(&json_lines(&succeed(&mut train(&parts, 9, &["--resume"]))));
    assert_eq!(unbroken.len(), 9);
    assert_eq!([first, second].concat(), unbroken);
    assert_eq!(adapter(&whole), adapter(&parts));
    assert_eq!(losses(&metrics(&parts)), unbroken, "metrics.jsonl holds every step once");
}

#[test]
fn a_full_run_resumes_bit_for_bit_too() {
    let dir = tempfile::tempdir().unwrap();
    let run = |out: &str, steps: &str, extra: &[&str]| {
        let mut command =
            finetune(["train", "--json", "--backend", "cpu", "--method", "full", "--batch", "3"]);
        command.args(["--seq-len", "24", "--lr", "1e-3", "--save-every", "2", "--steps", steps]).args(extra);
        command.arg("--plugins").arg(plugins()).arg("--model").arg(goldens().join("gpt2/model"));
        command.arg("--data").arg(data()).arg("--out").arg(dir.path().join(out));
        losses(&json_lines(&succeed(&mut command)))
    };
    let unbroken = run("whole", "6", &[]);
    let parts = [run("parts", "4", &[]), run("parts", "6", &["--resume"])].concat();
    assert_eq!(parts, unbroken);
    let weights = |out: &str| std::fs::read(dir.path().join(out).join("model/model.safetensors")).unwrap();
    assert_eq!(weights("whole"), weights("parts"));
}

/// SIGKILL at moments that differ from try to try: the folder resumes, the curve is the unbroken one, and no
/// more than `--save-every` steps are repeated.
#[cfg(unix)]
#[test]
fn a_killed_run_resumes_as_if_nothing_had_happened() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let unbroken = losses(&json_lines(&succeed(&mut train(&whole, 12, &[]))));
    for (i, steps_before_kill) in [0, 1, 3, 4, 7].into_iter().enumerate() {
        let out = dir.path().join(format!("killed-{i}"));
        let mut child = train(&out, 12, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        loop {
            let seen = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
            let steps = seen.lines().filter(|line| line.contains("\"event\":\"step\"")).count();
            let config = out.join("config.toml").exists();
            if (config && steps >= steps_before_kill) || child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "the run does not get on");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let before: Vec<_> = std::fs::read_to_string(out.join("metrics.jsonl"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .collect();
        let taken = losses(&before).len() as u64;
        let resumed = json_lines(&succeed(&mut train(&out, 12, &["--resume"])));
        let from = events(&resumed, "start")[0]["resumed_from"].as_u64().unwrap();
        assert!(from + 2 >= taken, "{taken} steps were taken, but it goes on from {from}");
        assert_eq!(losses(&metrics(&out)), unbroken, "killed after {taken} steps");
        assert_eq!(adapter(&out), adapter(&whole));
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut command = train(&out, 100_000, &["--save-every", "0"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default().contains("\"step\":3") {
        assert!(begun.elapsed() < Duration::from_secs(120), "the run does not get on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("--resume"), "{message}");
    let steps = losses(&metrics(&out)).len() as u64;
    let resumed = json_lines(&succeed(&mut train(&out, steps + 1, &["--resume"])));
    assert_eq!(events(&resumed, "start")[0]["resumed_from"], steps, "nothing is taken twice");
}

/// The loss of a step is over its whole batch, and dropout's mask belongs to the example, however it is split.
#[test]
fn the_split_into_micro_batches_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, micro: &str| {
        let mut command = train(&dir.path().join(name), 5, &[]);
        command.args(["--micro-batch", micro]);
        json_lines(&succeed(&mut command))
    };
    let (whole, split) = (run("whole", "4"), run("split", "1"));
    for (a, b) in events(&whole, "step").iter().zip(events(&split, "step")) {
        assert_eq!(a["tokens"], b["tokens"]);
        assert_close(number(b, "loss"), number(a, "loss"), 2e-5, "loss");
        assert_close(number(b, "grad_norm"), number(a, "grad_norm"), 1e-3, "grad_norm");
    }
}

#[test]
fn shuffling_dropout_and_adapters_follow_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, seed: &str| {
        let mut command = train(&dir.path().join(name), 3, &[]);
        losses(&json_lines(&succeed(command.args(["--seed", seed]))))
    };
    let first = run("a", "1");
    assert_eq!(first, run("b", "1"));
    assert_ne!(first, run("c", "2"));
}

/// What is left out of the data is said, and `start` stays the first event.
#[test]
fn examples_that_are_cut_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let lines = json_lines(&succeed(train(&dir.path().join("run"), 1, &[]).args(["--seq-len", "4"])));
    assert_eq!(lines[0]["event"], "start");
    let warnings = events(&lines, "warning");
    assert!(warnings[0]["message"].as_str().unwrap().contains("longer than --seq-len 4"), "{warnings:?}");
}

/// What is printed before the run holds for the run, and is no more than a tenth above it.
#[test]
fn planned_memory_is_an_upper_bound_within_a_tenth() {
    for (name, planned, used) in planned_and_used("cpu", "f32") {
        assert!(used <= planned, "{name}: {used} bytes were used, {planned} planned");
        assert!(planned <= 1.1 * used, "{name}: {planned} bytes were planned, {used} used");
    }
}

/// MLX decides by itself what is in memory at a time: it may take a tenth more, and less where the plan has it at once.
#[test]
fn mlx_plugin_uses_at_most_a_tenth_more_than_planned() {
    for precision in ["f32", "bf16"] {
        for (name, planned, used) in planned_and_used("mlx", precision) {
            let ratio = used / planned;
            assert!(
                (0.7..1.1).contains(&ratio),
                "{name} in {precision}: {used} of {planned} bytes were used"
            );
        }
    }
}

/// What candle's ops hold beside their results is planned and counted too.
#[test]
fn candle_plugin_uses_no_more_than_planned() {
    for precision in ["f32", "bf16"] {
        for (name, planned, used) in planned_and_used(&candle(), precision) {
            assert!(used <= planned, "{name} in {precision}: {used} of {planned} bytes were used");
            assert!(
                planned <= 1.3 * used,
                "{name} in {precision}: {planned} bytes were planned, {used} used"
            );
        }
    }
}

/// Runs by name with the bytes that were planned and those that were used.
fn planned_and_used(backend: &str, precision: &str) -> Vec<(&'static str, f64, f64)> {
    let dir = tempfile::tempdir().unwrap();
    // Plain text, so that every example is as long as may be.
    let long = dir.path().join("long.txt");
    let words = (0..40_000).map(|i| format!("word {} ", i * 7919 % 1000)).collect::<String>();
    std::fs::write(&long, words).unwrap();
    // With rows far shorter than the sequence length, the bound is that of the rows.
    let cases = [
        ("lora", "lora", "96", &long, None),
        ("full", "full", "96", &long, None),
        ("short-lora", "lora", "512", &data(), None),
        ("short-full", "full", "512", &data(), Some(goldens().join("text/valid.jsonl"))),
    ];
    let run = |(name, method, seq_len, data, valid): (&'static str, &str, &str, _, Option<PathBuf>)| {
        let mut command = finetune(["train", "--json", "--backend", backend, "--steps", "3", "--batch", "8"]);
        command
            .args(["--seq-len", seq_len, "--no-shuffle", "--method", method, "--precision", precision])
            .arg("--plugins")
            .arg(plugins());
        command.arg("--model").arg(model()).arg("--data").arg(data);
        if let Some(valid) = valid {
            command.arg("--valid").arg(valid);
        }
        let lines = json_lines(&succeed(command.arg("--out").arg(dir.path().join(name))));
        let planned = number(events(&lines, "start")[0], "peak_bytes_planned");
        let used = events(&lines, "step").iter().map(|step| number(step, "memory_bytes")).fold(0.0, f64::max);
        (name, planned, used)
    };
    cases.map(run).into()
}

#[test]
fn a_run_folder_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    succeed(&mut train(&out, 1, &[]));
    let message = fail(&mut train(&out, 1, &[]));
    assert!(message.contains("--resume"), "{message}");
    let message = fail(&mut train(&dir.path().join("other"), 1, &["--resume"]));
    assert!(message.contains("no run"), "{message}");
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_it_used() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    let unbroken = losses(&json_lines(&succeed(&mut train(&whole, 6, &[]))));
    succeed(&mut train(&out, 4, &[]));
    let file = out.join("checkpoints/step-00000004/optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let lines = json_lines(&succeed(&mut train(&out, 6, &["--resume"])));
    assert_eq!(events(&lines, "start")[0]["resumed_from"], 2);
    let told = |word: &str| {
        events(&lines, "warning").iter().any(|event| event["message"].to_string().contains(word))
    };
    assert!(told("optimizer.safetensors"), "{lines:?}");
    assert_eq!(losses(&metrics(&out)), unbroken);
}

#[test]
fn resuming_with_other_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (out, copy) = (dir.path().join("run"), dir.path().join("data.jsonl"));
    std::fs::copy(data(), &copy).unwrap();
    let with_copy = |steps: &str, extra: &[&str]| {
        let mut command =
            finetune(["train", "--json", "--backend", "cpu", "--batch", "2", "--seq-len", "16"]);
        command.args(["--steps", steps]).args(extra).arg("--plugins").arg(plugins());
        command.arg("--model").arg(model()).arg("--data").arg(&copy).arg("--out").arg(&out);
        command
    };
    succeed(&mut with_copy("2", &[]));
    let text = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&copy, text.replacen(": \"", ": \"x", 1)).unwrap();
    let message = fail(&mut with_copy("3", &["--resume"]));
    assert!(message.contains("not what the run was begun with"), "{message}");
}

#[test]
fn flags_that_contradict_an_adapter_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = goldens().join("llama3/lora-all-linear/adapter");
    for (flag, value) in [("--rank", "5"), ("--alpha", "3"), ("--targets", "attention")] {
        let mut command = finetune(["train", "--backend", "cpu", "--steps", "1", flag, value]);
        command.arg("--plugins").arg(plugins()).arg("--model").arg(model()).arg("--data").arg(data());
        let message = fail(command.arg("--adapter").arg(&adapter).arg("--out").arg(dir.path().join("run")));
        assert!(message.contains(flag) && message.contains("adapter"), "{message}");
    }
}

/// Moments and corrections stay together: a step whose batch has nothing to learn is one whose gradient is zero,
/// as it is in torch, where the weights go on by what the moments hold.
#[test]
fn a_batch_without_targets_is_a_step_with_a_gradient_of_zero() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        r#"{"text":"Salt and water."}"#,
        r#"{"prompt":"The prompt alone fills the window.","completion":" no"}"#,
    ];
    let data = dir.path().join("data.jsonl");
    std::fs::write(&data, rows.join("\n")).unwrap();
    let out = dir.path().join("run");
    let mut command = finetune(["train", "--json", "--backend", "cpu", "--batch", "1", "--seq-len", "4"]);
    command
        .args(["--no-shuffle", "--steps", "3", "--lr", "1e-2", "--valid"])
        .arg(&data)
        .arg("--eval-every")
        .arg("1");
    command
        .arg("--plugins")
        .arg(plugins())
        .arg("--model")
        .arg(model())
        .arg("--data")
        .arg(&data)
        .arg("--out")
        .arg(&out);
    let lines = json_lines(&succeed(&mut command));
    let steps = events(&lines, "step");
    assert_eq!((steps[1]["tokens"].as_u64(), number(steps[1], "loss")), (Some(0), 0.0));
    assert_eq!(number(steps[1], "grad_norm"), 0.0);
    let losses: Vec<f64> = events(&lines, "eval").iter().map(|eval| number(eval, "loss")).collect();
    assert!(losses[2] < losses[1], "the first step's momentum goes on: {losses:?}");
}

/// What fails before its first step is no run yet: the same folder can be tried again.
#[test]
fn a_start_that_fails_leaves_the_folder_free() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let message = fail(&mut train(&out, 2, &["--micro-batch", "4", "--rank", "16777216"]));
    assert!(message.contains("GiB") && message.contains("--rank"), "{message}");
    let message = fail(&mut train(&out, 2, &["--lr", "1e38", "--warmup", "0", "--alpha", "1e38"]));
    assert!(message.contains("diverged"), "{message}");
    succeed(&mut train(&out, 2, &[]));
    assert_eq!(losses(&metrics(&out)).len(), 2, "nothing of the tries before is left");
}

#[test]
fn a_resumption_that_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    succeed(&mut train(&out, 4, &[]));
    let resume = |steps: &[&str]| {
        let mut command = finetune(["train", "--json", "--resume", "--plugins"]);
        command.arg(plugins()).arg("--out").arg(&out).args(steps);
        command
    };
    let message = fail(&mut resume(&["--steps", "3"]));
    assert!(message.contains("4 steps already"), "{message}");
    let lines = json_lines(&succeed(&mut resume(&[])));
    assert_eq!(events(&lines, "end")[0]["steps"], 4);
}

/// A file name need not be Unicode.
#[cfg(target_os = "linux")]
#[test]
fn any_folder_name_will_do() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff run \xf0"));
    succeed(&mut train(&out, 2, &[]));
    assert!(out.join("adapter/adapter_model.safetensors").exists());
}

/// The loop, lowering and ABI through another back end: the example plugin has core ops alone, so every
/// composite goes its other way, and its curve, dropout included, is the one of `cpu`.
#[test]
fn a_plugin_with_core_ops_alone_trains_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let library = example_plugin();
    std::fs::copy(&library, folder.join(library.file_name().unwrap())).unwrap();
    let run = |name: &str, extra: &[&str], plugins: &Path| {
        let mut command = train(&dir.path().join(name), 3, extra);
        json_lines(&succeed(command.arg("--plugins").arg(plugins)))
    };
    let fast = run("cpu", &[], &plugins());
    let slow = run("tiny", &["--backend", "tiny"], &folder);
    assert_eq!(events(&slow, "start")[0]["backend"], "tiny");
    for (a, b) in events(&fast, "step").iter().zip(events(&slow, "step")) {
        assert_eq!(a["tokens"], b["tokens"]);
        assert_close(number(a, "loss"), number(b, "loss"), 1e-5, "loss");
        assert_close(number(a, "grad_norm"), number(b, "grad_norm"), 1e-4, "grad_norm");
    }
}

/// Conversations: the loss that transformers gives with its mask of what the assistant says, with a template that
/// marks it and with one that does not; resuming with another template is refused.
#[test]
fn conversations_have_the_loss_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let chat = goldens().join("chat/train");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(chat.join("expected.json")).unwrap()).unwrap();
    let run = |template: &str, out: &str, extra: &[&str]| {
        let mut command =
            finetune(["train", "--json", "--backend", "cpu", "--method", "lora", "--precision", "f32"]);
        command.args(["--batch", "4", "--seq-len", "80", "--no-shuffle"]).args(extra);
        command
            .arg("--plugins")
            .arg(plugins())
            .arg("--model")
            .arg(model())
            .arg("--data")
            .arg(chat.join("train.jsonl"));
        command.arg("--chat-template").arg(dir.path().join(template)).arg("--out").arg(dir.path().join(out));
        command
    };
    for template in ["template.jinja", "unmarked.jinja"] {
        std::fs::copy(chat.join(template), dir.path().join(template)).unwrap();
        let lines =
            json_lines(&succeed(&mut run(template, template.split('.').next().unwrap(), &["--steps", "1"])));
        let step = events(&lines, "step")[0];
        assert_eq!(step["tokens"], expected["tokens"], "{template}");
        assert_close(number(step, "loss"), number(&expected, "loss"), 1e-5, template);
    }
    let mut eval = finetune(["eval", "--json", "--backend", "cpu", "--precision", "f32", "--seq-len", "80"]);
    eval.arg("--plugins")
        .arg(plugins())
        .arg("--model")
        .arg(model())
        .arg("--data")
        .arg(chat.join("train.jsonl"));
    let message = fail(&mut eval);
    assert!(message.contains("line 1") && message.contains("--chat-template"), "{message}");
    let lines = json_lines(&succeed(eval.arg("--chat-template").arg(chat.join("template.jinja"))));
    assert_close(number(events(&lines, "eval")[0], "loss"), number(&expected, "loss"), 1e-5, "eval");
    let template = dir.path().join("template.jinja");
    let changed = std::fs::read_to_string(&template).unwrap().replace("<|", "<");
    std::fs::write(&template, changed).unwrap();
    let message = fail(&mut run("template.jinja", "template", &["--steps", "2", "--resume"]));
    assert!(message.contains("chat template"), "{message}");
}

/// A model's template that cannot be used matters to conversations alone.
#[test]
fn a_bad_template_does_not_keep_from_training_on_text() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(copy.join("chat_template.jinja"), "{% if %}").unwrap();
    let out = dir.path().join("run");
    succeed(train(&out, 1, &[]).arg("--model").arg(&copy));
    let data = goldens().join("chat/train/train.jsonl");
    let message =
        fail(train(&dir.path().join("chat"), 1, &[]).arg("--model").arg(&copy).arg("--data").arg(data));
    assert!(message.contains("chat_template.jinja") || message.contains("cannot be used"), "{message}");
}

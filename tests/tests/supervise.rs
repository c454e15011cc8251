//! Runs whose back end crashes, hangs, fails, runs out of memory or computes wrongly: they go on, say so, and come to
//! the numbers of an unbroken run. Each kind of failure is made by a real plugin in the real program.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use finetune_tests::misbehaving::place;
use finetune_tests::{assert_close, events, finetune, goldens, json_lines, number, plugins};
use serde_json::Value;

/// A folder of plugins in which `cpu` is the only good one, and run folders beside it.
struct Place(tempfile::TempDir);

/// What a command left: its exit code, its events, and what it said to a person.
struct Ran {
    code: Option<i32>,
    lines: Vec<Value>,
    said: String,
}

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.plugins()).unwrap();
        let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let library = format!("{prefix}finetune_cpu{suffix}");
        std::fs::copy(plugins().join(&library), place.plugins().join(&library)).unwrap();
        place
    }

    fn plugins(&self) -> PathBuf {
        self.0.path().join("plugins")
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mark(&self, name: &str) -> String {
        self.0.path().join(format!("{name}-mark")).display().to_string()
    }

    fn plugin(&self, name: &str, behaviour: &str) {
        place(&self.plugins(), name, behaviour);
    }

    fn train(&self, out: &str, backend: &str, extra: &[&str]) -> Command {
        let mut command = finetune(["train", "--json", "--method", "lora", "--rank", "2", "--steps", "6"]);
        command.args([
            "--batch",
            "4",
            "--seq-len",
            "16",
            "--seed",
            "3",
            "--lr",
            "1e-2",
            "--precision",
            "f32",
        ]);
        command.args(["--backend", backend, "--save-every", "0"]).args(extra);
        command.arg("--model").arg(goldens().join("llama2/model"));
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        command.arg("--out").arg(self.out(out)).arg("--plugins").arg(self.plugins());
        command
    }

    fn run(&self, out: &str, backend: &str, extra: &[&str]) -> Ran {
        let ran = ran(self.train(out, backend, extra).output().expect("the program starts"));
        self.nothing_is_left();
        ran
    }

    /// A run that has to come to its end.
    #[track_caller]
    fn succeed(&self, out: &str, backend: &str, extra: &[&str]) -> Ran {
        let ran = self.run(out, backend, extra);
        assert_eq!(ran.code, Some(0), "{}", ran.said);
        assert_eq!(losses(&metrics(&self.out(out))).len(), 6, "metrics.jsonl holds every step once");
        let adapter = self.out(out).join("adapter/adapter_model.safetensors");
        assert!(adapter.exists());
        ran
    }

    /// No process has a library of this place loaded or names it.
    #[track_caller]
    fn nothing_is_left(&self) {
        let left = self.processes();
        assert_eq!(left, Vec::<u32>::new(), "processes are left");
    }

    fn processes(&self) -> Vec<u32> {
        let folder = self.0.path().to_str().unwrap();
        let names = |path: &Path, file: &str| {
            let bytes = std::fs::read(path.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(folder)
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let named = numbers.filter(|process| {
            let path = PathBuf::from(format!("/proc/{process}"));
            names(&path, "maps") || names(&path, "cmdline")
        });
        named.collect()
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        lines: json_lines(
            std::str::from_utf8(&output.stdout).expect("events alone, whatever a plugin prints"),
        ),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn metrics(out: &Path) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(out.join("metrics.jsonl")).unwrap())
}

fn losses(lines: &[Value]) -> Vec<(u64, u64)> {
    let steps = events(lines, "step");
    steps.iter().map(|step| (step["step"].as_u64().unwrap(), number(step, "loss").to_bits())).collect()
}

/// The run says what happened: in an event, in the record of its folder, and in a line.
#[track_caller]
fn told(place: &Place, out: &str, ran: &Ran, expected: &[(&str, Option<&str>)]) {
    for lines in [&ran.lines, &metrics(&place.out(out))] {
        let fallbacks = events(lines, "fallback");
        let found: Vec<_> = fallbacks
            .iter()
            .map(|event| (event["cause"].as_str().unwrap(), event["next"].as_str()))
            .collect();
        assert_eq!(found, expected, "{}", ran.said);
    }
    for event in events(&ran.lines, "fallback") {
        let message = event["message"].as_str().unwrap();
        assert!(ran.said.contains(message), "{message:?} is missing in: {}", ran.said);
    }
}

fn message(ran: &Ran, at: usize) -> String {
    events(&ran.lines, "fallback")[at]["message"].as_str().unwrap().to_owned()
}

/// A back end that never gets to a step costs a line; the curve is that of the one that takes over, bit for bit.
#[test]
fn what_fails_before_its_first_step_leaves_the_run_to_the_next() {
    let place = Place::new();
    let unbroken = losses(&place.succeed("cpu", "cpu", &[]).lines);
    for (name, behaviour, cause, words) in [
        ("compile-dies", "compile: segv", "crash", "crashed (SIGSEGV)"),
        ("compile-exits", "compile: exit 0", "crash", "ended its process with exit code 0"),
        ("opens-dying", "open: abort", "crash", "SIGABRT"),
        ("first-dies", "run 1: kill", "crash", "SIGKILL"),
        ("first-fails", "run 1: error internal", "error", "made up for a test"),
        ("noise", "compile: garbage", "crash", "wrote noise"),
        ("lost", "step 1: error device-lost", "device-lost", "device lost"),
    ] {
        place.plugin(name, behaviour);
        let ran = place.succeed(name, name, &[]);
        let again = format!("{name}:0");
        told(&place, name, &ran, &[(cause, Some(&again)), (cause, Some("cpu:0"))]);
        assert!(message(&ran, 0).contains(words), "{}", message(&ran, 0));
        assert!(message(&ran, 0).contains("from the beginning with the same back end once more"));
        assert_eq!(losses(&metrics(&place.out(name))), unbroken, "{name}");
        let starts = events(&ran.lines, "start");
        assert_eq!(starts.last().unwrap()["backend"], "cpu");
    }
}

/// What would be the same the second time is not tried a second time.
#[test]
fn what_a_back_end_cannot_do_goes_to_the_next_at_once() {
    let place = Place::new();
    let unbroken = losses(&place.succeed("cpu", "cpu", &[]).lines);
    place.plugin("cannot", "compile: error unsupported");
    let ran = place.succeed("cannot", "cannot", &[]);
    told(&place, "cannot", &ran, &[("unsupported", Some("cpu:0"))]);
    assert_eq!(losses(&metrics(&place.out("cannot"))), unbroken);
}

/// A failure in the middle: the run goes on from the state after the last step on the same back end, and its curve
/// and its adapter are those of a run to which nothing happened. Half-written state is never used.
#[test]
fn a_failure_at_a_step_is_as_if_it_had_not_been() {
    let place = Place::new();
    place.plugin("good", "");
    let unbroken = losses(&place.succeed("good", "good", &[]).lines);
    let adapter =
        |out: &str| std::fs::read(place.out(out).join("adapter/adapter_model.safetensors")).unwrap();
    for (name, behaviour, cause) in [
        ("dies", "step 3: segv", "crash"),
        ("fails", "step 3: error internal", "error"),
        ("loses", "step 4: error device-lost", "device-lost"),
        ("half", "step 3: half", "error"),
        ("half-of-gradients", "run 7: half", "error"),
        ("hangs", "step 5: hang", "hang"),
        ("stops", "step 5: stop", "hang"),
    ] {
        place.plugin(name, &format!("{behaviour}; once: {}", place.mark(name)));
        let ran = place.succeed(name, name, &["--step-timeout", "4"]);
        let again = format!("{name}:0");
        told(&place, name, &ran, &[(cause, Some(&again))]);
        let before = events(&ran.lines, "fallback")[0]["step"].as_u64().unwrap();
        let resumed = events(&ran.lines, "start")[1]["resumed_from"].as_u64().unwrap();
        assert_eq!(before, resumed, "{name}: it goes on from where it says");
        assert!(resumed > 0, "{name}: there was a state to go on from, though nothing was saved");
        assert_eq!(losses(&metrics(&place.out(name))), unbroken, "{name}");
        assert_eq!(adapter(name), adapter("good"), "{name}");
    }
}

/// The steps before the failure were another back end's: the rest follows within rounding.
#[test]
fn the_next_in_rank_takes_the_state_over() {
    let place = Place::new();
    let unbroken = place.succeed("cpu", "cpu", &[]).lines;
    place.plugin("dies", "step 4: segv");
    let ran = place.succeed("dies", "dies", &[]);
    let expected = [("crash", Some("dies:0")), ("crash", Some("dies:0")), ("crash", Some("cpu:0"))];
    let found = events(&ran.lines, "fallback").len();
    // The count begins anew in each process: the second one gets to its own fourth step or to the end.
    assert!((1..=expected.len()).contains(&found), "{}", ran.said);
    for (got, want) in events(&metrics(&place.out("dies")), "step").iter().zip(events(&unbroken, "step")) {
        assert_close(number(got, "loss"), number(want, "loss"), 1e-4, "loss");
    }
    place.plugin("dies-for-good", "run 6: segv");
    let ran = place.succeed("dies-for-good", "dies-for-good", &["--micro-batch", "1"]);
    let last = events(&ran.lines, "start").last().unwrap()["backend"].clone();
    assert_eq!(last, "cpu", "{}", ran.said);
    for (got, want) in
        events(&metrics(&place.out("dies-for-good")), "step").iter().zip(events(&unbroken, "step"))
    {
        assert_close(number(got, "loss"), number(want, "loss"), 1e-4, "loss");
    }
}

/// The worker of the CPU back end is killed from outside, several times at moments as they come: the same curve.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_worker_of_the_cpu_back_end_leaves_no_trace_in_the_curve() {
    let place = Place::new();
    let steps = "400";
    let whole = place.run("whole", "cpu", &["--steps", steps]);
    let out = place.out("killed");
    let mut command = place.train("killed", "cpu", &["--steps", steps]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| {
        std::fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.contains("\"step\":9,"))
    });
    let worker = worker_of(child.id()).expect("there is a worker");
    assert!(Command::new("kill").args(["-KILL", &worker.to_string()]).status().unwrap().success());
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    told(&place, "killed", &ran, &[("crash", Some("cpu:0"))]);
    assert!(message(&ran, 0).contains("was killed (SIGKILL)"));
    assert_eq!(losses(&metrics(&out)), losses(&whole.lines));
    place.nothing_is_left();
}

/// Memory that runs out at a size: fewer examples at once, the same losses.
#[test]
fn out_of_memory_makes_the_micro_batch_smaller() {
    let place = Place::new();
    place.plugin("good", "");
    let unbroken = place.succeed("good", "good", &[]).lines;
    place.plugin("small", "run: most-rows 1");
    let ran = place.succeed("small", "small", &[]);
    told(&place, "small", &ran, &[("out-of-memory", Some("small:0")), ("out-of-memory", Some("small:0"))]);
    let sizes: Vec<_> =
        events(&ran.lines, "fallback").iter().map(|event| event["micro_batch"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [2, 1]);
    for (got, want) in events(&metrics(&place.out("small")), "step").iter().zip(events(&unbroken, "step")) {
        assert_eq!(got["tokens"], want["tokens"]);
        assert_close(number(got, "loss"), number(want, "loss"), 2e-5, "loss");
    }
    place.plugin("once", &format!("step 3: error out-of-memory; once: {}", place.mark("once")));
    let ran = place.succeed("once", "once", &[]);
    told(&place, "once", &ran, &[("out-of-memory", Some("once:0"))]);
    place.plugin("never", "compile: error out-of-memory");
    let ran = place.succeed("never", "never", &[]);
    let last = events(&ran.lines, "fallback").last().unwrap()["next"].clone();
    assert_eq!(last, "cpu:0", "with one example it is the next back end's turn");
    assert_eq!(losses(&metrics(&place.out("never"))), losses(&place.succeed("cpu", "cpu", &[]).lines));
}

/// `--strict` ends a run with a code of its own in place of anything else, and with the reason.
#[test]
fn strict_goes_no_other_way() {
    let place = Place::new();
    for (name, behaviour, cause) in [
        ("dies", "step 3: segv", "crash"),
        ("fails", "compile: error internal", "error"),
        ("full", "run: most-rows 2", "out-of-memory"),
        ("wrong", "run: wrong", "wrong-numbers"),
    ] {
        place.plugin(name, behaviour);
        let ran = place.run(name, name, &["--strict", "--verify"]);
        assert_eq!(ran.code, Some(3), "{name}: {}", ran.said);
        let fallbacks = events(&ran.lines, "fallback");
        assert_eq!((fallbacks.len(), fallbacks[0]["cause"].as_str()), (1, Some(cause)), "{}", ran.said);
        assert_eq!(fallbacks[0]["next"], Value::Null);
        assert!(ran.said.contains("--strict keeps from going on another way"), "{}", ran.said);
        assert_eq!(ran.said.matches("--strict keeps").count(), 1, "it is said once: {}", ran.said);
    }
    // The run is there still, and goes on where that is allowed.
    let ran = place.run("dies", "cpu", &["--resume", "--strict=false"]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
}

/// Numbers that are one percent off would train, and badly: `--verify` finds them before the first step.
#[test]
fn wrong_numbers_are_found_before_the_first_step() {
    let place = Place::new();
    let unbroken = losses(&place.succeed("cpu", "cpu", &["--verify"]).lines);
    for (name, behaviour) in [("wrong", "run: wrong"), ("none", "run: nan"), ("wrong-step", "step: wrong")] {
        place.plugin(name, behaviour);
        let ran = place.succeed(name, name, &["--verify"]);
        told(&place, name, &ran, &[("wrong-numbers", Some("cpu:0"))]);
        let message = message(&ran, 0);
        assert!(
            message.contains("computes wrongly") && message.contains("reference interpreter"),
            "{message}"
        );
        assert_eq!(losses(&metrics(&place.out(name))), unbroken);
    }
    place.plugin("right", "");
    for (backend, precision) in [("right", "f32"), ("cpu", "bf16")] {
        let out = format!("{backend}-{precision}");
        let ran = place.succeed(&out, backend, &["--verify", "--strict", "--precision", precision]);
        assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
    }
}

/// Every kind of model and method is verified as what it is.
#[test]
fn verification_knows_every_kind_of_model() {
    let place = Place::new();
    for model in ["gpt2", "llama3", "mistral", "llama-bias-head-dim"] {
        for method in [&["--method", "lora", "--dropout", "0.1"][..], &["--method", "full"]] {
            let mut command = finetune(["train", "--json", "--steps", "1", "--batch", "2", "--seq-len", "8"]);
            command.args(["--backend", "cpu", "--verify", "--strict", "--precision", "f32"]).args(method);
            command.arg("--model").arg(goldens().join(model).join("model"));
            command.arg("--data").arg(goldens().join("text/train.jsonl"));
            command.arg("--out").arg(place.out(&format!("{model}{}", method[1])));
            let ran = ran(command.arg("--plugins").arg(place.plugins()).output().unwrap());
            assert_eq!(ran.code, Some(0), "{model} {method:?}: {}", ran.said);
        }
    }
}

/// When nothing is left to try, the error says what happened last, and the record of the run has it.
#[test]
fn when_nothing_is_left_the_run_ends_and_can_be_resumed() {
    let place = Place::new();
    std::fs::remove_dir_all(place.plugins()).unwrap();
    std::fs::create_dir(place.plugins()).unwrap();
    place.plugin("dies", "step 2: segv");
    let ran = place.run("run", "dies", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("no other back end is left"), "{}", ran.said);
    told(&place, "run", &ran, &[("crash", Some("dies:0")), ("crash", None)]);
    let place_of_cpu = Place::new();
    let mut command = place.train("run", "cpu", &["--resume"]);
    let resumed = ran_of(command.arg("--plugins").arg(place_of_cpu.plugins()));
    assert_eq!(resumed.code, Some(0), "{}", resumed.said);
}

fn ran_of(command: &mut Command) -> Ran {
    ran(command.output().expect("the program starts"))
}

/// What is planned must fit what is really there; what a plugin claims does not count.
#[test]
fn memory_is_planned_with_what_there_is() {
    let place = Place::new();
    place.plugin("good", "");
    let planned = |ran: &Ran| number(events(&ran.lines, "start")[0], "peak_bytes_planned") as u64;
    let whole = planned(&place.succeed("whole", "good", &[]));
    let least = planned(&place.succeed("least", "good", &["--micro-batch", "1"]));
    assert!(least < whole);
    place.plugin("tight", &format!("memory: {}", (least + whole) / 2));
    let ran = place.succeed("tight", "tight", &["--reserve", "0"]);
    assert!(
        planned(&ran) < whole && ran.said.contains("examples are computed at once in place of 4"),
        "{}",
        ran.said
    );
    assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
    let ran = place.run("strict", "tight", &["--reserve", "0", "--strict"]);
    assert_eq!(ran.code, Some(3), "{}", ran.said);

    place.plugin("liar", "memory: 1099511627776000");
    let ran = place.run("liar", "liar", &["--reserve", "900TiB"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("--reserve") && ran.said.contains("--micro-batch"), "{}", ran.said);
    let believed = ran.said.contains("1024000.0 GiB,");
    assert!(!believed, "no machine has that much: {}", ran.said);
    place.plugin("unknown", "memory: 0");
    let ran = place.succeed("unknown", "unknown", &[]);
    assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
}

/// A back end that loses memory is told of while it still trains.
#[cfg(target_os = "linux")]
#[test]
fn a_leak_is_told_of() {
    let place = Place::new();
    place.plugin("leaks", "run: leak 67108864; step: slow 700");
    let ran = place.succeed("leaks", "leaks", &["--steps", "6", "--micro-batch", "1"]);
    let leaks: Vec<_> = events(&ran.lines, "memory");
    assert!(
        leaks.iter().any(|event| event["message"].as_str().unwrap().contains("seems to lose memory")),
        "{:?} {}",
        ran.lines,
        ran.said
    );
    let recorded = metrics(&place.out("leaks"));
    assert!(!events(&recorded, "memory").is_empty(), "it is in the run's record");
    assert!(ran.said.contains("seems to lose memory"), "{}", ran.said);
}

/// A supervisor that is killed takes its worker along, and the run resumes.
#[cfg(target_os = "linux")]
#[test]
fn no_worker_outlives_its_supervisor() {
    let place = Place::new();
    place.plugin("slow", "step: slow 200");
    for signal in ["-KILL", "-INT"] {
        let name = format!("run{signal}");
        let mut command = place.train(&name, "slow", &["--save-every", "1", "--steps", "1000"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let out = place.out(&name);
        wait_for(|| {
            std::fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.contains("\"step\":2,"))
        });
        assert!(worker_of(child.id()).is_some());
        // The second interrupt ends at once.
        for _ in 0..2 {
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = child.wait().unwrap();
        assert!(signal == "-KILL" || status.code() == Some(130), "{status:?}");
        wait_for(|| place.processes().is_empty());
        let ran = place.run(&name, "cpu", &["--resume", "--steps", "4"]);
        assert_eq!(ran.code, Some(0), "{}", ran.said);
    }
}

/// What happened can be understood from the log alone.
#[test]
fn the_log_tells_the_story() {
    let place = Place::new();
    place.plugin("dies", &format!("step 3: segv; once: {}", place.mark("dies")));
    let ran = place.succeed("run", "dies", &["-v"]);
    for words in [
        "dies:0 trains in process",
        "a worker has ended: Crash: dies:0 crashed (SIGSEGV) in step 3",
        "going on from the state after step 2 that was kept",
    ] {
        assert!(ran.said.contains(words), "{words:?} is missing in: {}", ran.said);
    }
}

/// What a plugin prints is shown to a person, and is no event.
#[test]
fn what_a_plugin_prints_is_no_event() {
    let place = Place::new();
    place.plugin("prints", "step 2: print");
    let ran = place.succeed("run", "prints", &[]);
    assert!(ran.said.contains("hello from a plugin") && !ran.said.contains('\u{1b}'), "{}", ran.said);
}

/// The worker of a supervisor.
#[cfg(target_os = "linux")]
fn worker_of(supervisor: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[cfg(target_os = "linux")]
fn wait_for(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not come to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Runs whose back end crashes, hangs, fails, runs out of memory or computes wrongly: they go on, say so, and come to
//! the numbers of an unbroken run. Each kind of failure is made by a real plugin in the real program.
#![cfg(unix)]

use std::process::{Command, Stdio};
use std::time::Duration;

use finetune_tests::failing::{Place, losses, message, metrics, ran, ran_of, told, wait_for, worker_of};
use finetune_tests::{assert_close, events, number};
use serde_json::Value;

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

/// Without a word of the user's the back end that ranks first is used, and the next in rank if it fails.
#[test]
fn the_next_in_rank_is_found_by_itself() {
    let place = Place::new();
    place.plugin("first", "step 1: segv; device: gpu");
    let mut command = place.train("run", "auto", &["--verify"]);
    // Nothing is measured in so short a time; then what is no processor comes first.
    command.env("FINETUNE_MEASURE_TIMEOUT", "0.001").env("FINETUNE_CACHE_DIR", place.out("cache"));
    let ran = ran_of(&mut command);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    told(&place, "run", &ran, &[("crash", Some("first:0")), ("crash", Some("cpu:0"))]);
    assert_eq!(losses(&metrics(&place.out("run"))).len(), 6);
    place.nothing_is_left();
}

/// A compiler may take its time, but not for ever.
#[test]
fn a_back_end_that_hangs_while_it_compiles_is_given_up() {
    let place = Place::new();
    place.plugin("hangs", &format!("compile: hang; once: {}", place.mark("hangs")));
    let ran = place.succeed("run", "hangs", &["--start-timeout", "3"]);
    told(&place, "run", &ran, &[("hang", Some("hangs:0"))]);
    assert!(message(&ran, 0).contains("gave no sign of life for 3 s"), "{}", message(&ran, 0));
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
        // Longer than any pause of a busy machine, where nothing hangs.
        let timeout = if cause == "hang" { "5" } else { "600" };
        let ran = place.succeed(name, name, &["--step-timeout", timeout]);
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
    // The count begins anew in each process: the second one gets to its own fourth step, and then to the next back end,
    // or to the end.
    let expected = [("crash", Some("dies:0")), ("crash", Some("cpu:0"))];
    let found = events(&ran.lines, "fallback").len();
    assert!((1..=expected.len()).contains(&found), "{}", ran.said);
    told(&place, "dies", &ran, &expected[..found]);
    for (got, want) in events(&metrics(&place.out("dies")), "step").iter().zip(events(&unbroken, "step")) {
        assert_close(number(got, "loss"), number(want, "loss"), 1e-4, "loss");
    }
    place.plugin("dies-for-good", "run 6: segv");
    let ran = place.succeed("dies-for-good", "dies-for-good", &["--micro-batch", "1"]);
    let again = "dies-for-good:0";
    told(&place, "dies-for-good", &ran, &[("crash", Some(again)), ("crash", Some("cpu:0"))]);
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

/// `--strict` ends a run with a code of its own in place of anything else, and with the reason.
#[test]
fn strict_goes_no_other_way() {
    let place = Place::new();
    for (name, behaviour, cause) in [
        // The check before the first step takes two of its own.
        ("dies", "step 5: segv", "crash"),
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
        "going on from the state after step ",
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

/// The library that is loaded is the one that was asked for its devices: one that is another by the time it is opened
/// again is not loaded, and the run goes on without it.
#[cfg(target_os = "linux")]
#[test]
fn a_library_that_has_changed_since_it_was_asked_is_not_loaded() {
    let place = Place::new();
    place.plugin("hangs", "step 3: hang");
    let mut command = place.train("run", "hangs", &["--step-timeout", "600"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = place.out("run").join("metrics.jsonl");
    wait_for(|| std::fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"step\":2,")));
    // The worker holds still in its third step; the next one opens the library anew.
    let loaded = place.out("loaded");
    place.plugin("hangs", &format!("load: touch {}", loaded.display()));
    let worker = worker_of(child.id()).expect("there is a worker");
    assert!(Command::new("kill").args(["-KILL", &worker.to_string()]).status().unwrap().success());
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    assert!(ran.said.contains("has changed since it was asked for its devices"), "{}", ran.said);
    assert!(!loaded.exists(), "the other library was loaded");
    assert_eq!(events(&ran.lines, "start").last().unwrap()["backend"], "cpu", "{}", ran.said);
    // The proof that it would have been seen.
    place.succeed("again", "hangs", &[]);
    assert!(loaded.exists());
}

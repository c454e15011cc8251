//! Signals to the real program: what it does at them, what it leaves alone, and that it always can be ended.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use finetune_tests::failing::{Place, metrics, ran, wait_for, worker_of};
use finetune_tests::processes::{runs, wait_for_end};
use finetune_tests::{events, json_lines};

/// The same command by a shell that does something before it becomes that command.
fn after(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before}; exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn steps(place: &Place, out: &str) -> usize {
    let text = std::fs::read_to_string(place.out(out).join("metrics.jsonl")).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    events(&json_lines(whole), "step").len()
}

/// The end of a process that has to end; it is killed, with what it has started, where it does not.
#[track_caller]
fn ended(mut child: Child) -> Output {
    let left = wait_for_end(&[child.id()], Duration::from_secs(120));
    if !left.is_empty() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(left.is_empty(), "it does not end: {output:?}");
    output
}

/// A file that may grow no further is the run's own trouble: no back end is blamed, and none other is tried.
#[test]
fn a_limit_of_the_size_of_files_is_no_back_ends_fault() {
    let place = Place::new();
    // In blocks of 512 or 1024 bytes: less than what is saved, more than the run's record.
    let command = place.train("run", "cpu", &["--save-every", "1"]);
    let ran = ran(after("ulimit -f 8", &command).output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(ran.said.contains("File too large"), "{}", ran.said);
    assert!(ran.said.contains(place.out("run").to_str().unwrap()), "it names the file: {}", ran.said);
    assert_eq!(events(&ran.lines, "fallback").len(), 0, "{}", ran.said);
    assert!(!ran.said.contains("crashed") && !ran.said.contains("signal"), "{}", ran.said);
    place.nothing_is_left();
}

/// Who starts a run with `nohup`, or has Ctrl-C ignored, has it go on; the request to end is heard all the same.
#[test]
fn what_was_ignored_before_stays_ignored() {
    for (ignored, signal) in [("HUP", "-HUP"), ("INT", "-INT"), ("HUP INT", "-HUP")] {
        let place = Place::new();
        place.plugin("slow", "step: slow 20");
        let command = place.train("run", "slow", &["--steps", "100000"]);
        let mut command = after(&format!("trap '' {ignored}"), &command);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(|| steps(&place, "run") >= 2);
        send(signal, &child);
        send(signal, &child);
        let before = steps(&place, "run");
        wait_for(|| steps(&place, "run") > before + 5 || !runs(child.id()));
        assert!(runs(child.id()), "{signal} ended it: {:?}", ended(child));
        send("-TERM", &child);
        let output = ended(child);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert_eq!(said.matches("stopping after this step").count(), 1, "{said}");
        place.nothing_is_left();
    }
}

/// Where nothing is ignored, both end a run as it says.
#[test]
fn each_request_to_end_is_heard() {
    for signal in ["-HUP", "-INT", "-TERM"] {
        let place = Place::new();
        place.plugin("slow", "step: slow 20");
        let mut command = place.train("run", "slow", &["--steps", "100000"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(|| steps(&place, "run") >= 2);
        send(signal, &child);
        let output = ended(child);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{signal}: {said}");
        assert!(said.contains("stopping after this step") && said.contains("--resume"), "{signal}: {said}");
    }
}

/// Nobody reads what the program says, and the pipe is full: two signals end it, whatever waits to be said.
#[test]
fn a_program_that_nobody_listens_to_can_be_ended() {
    let place = Place::new();
    place.plugin("floods", "step 3: flood");
    let mut command = place.train("run", "floods", &["--steps", "100000", "--step-timeout", "600"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| steps(&place, "run") >= 2);
    let full = child.stderr.take().unwrap();
    // Full is when nothing more gets in: pages that are not filled count too.
    let waiting = || rustix::io::ioctl_fionread(&full).unwrap();
    wait_for(|| {
        let before = waiting();
        std::thread::sleep(Duration::from_millis(300));
        before >= 4096 && waiting() == before
    });
    send("-TERM", &child);
    // It is heard, though the word of it is not: the second is another.
    std::thread::sleep(Duration::from_millis(500));
    assert!(runs(child.id()), "the first asks");
    // Two that come before the first is heard are one.
    wait_for(|| {
        send("-TERM", &child);
        !runs(child.id())
    });
    let output = ended(child);
    assert_eq!(output.status.code(), Some(130));
    let mut said = Vec::new();
    { full }.read_to_end(&mut said).unwrap();
    wait_for(|| place.processes().is_empty());
    assert!(!metrics(&place.out("run")).is_empty());
}

/// At the second signal nothing stays that a plugin has started, and nobody is blamed for the end.
#[test]
fn the_second_signal_takes_along_what_a_plugin_has_started() {
    let place = Place::new();
    let left = place.out("left");
    place.plugin("leaves", &format!("open: leave {}; step: slow 300", left.display()));
    let command = &mut place.train("run", "leaves", &["--steps", "100000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| steps(&place, "run") >= 1);
    let number = || std::fs::read_to_string(&left).ok()?.parse::<u32>().ok();
    let (started, worker) = (number().expect("it has started one"), worker_of(child.id()).unwrap());
    assert!(runs(started) && runs(worker));
    send("-INT", &child);
    std::thread::sleep(Duration::from_millis(50));
    send("-INT", &child);
    let ran = ran(ended(child));
    let running: Vec<u32> = [started, worker].into_iter().filter(|process| runs(*process)).collect();
    assert_eq!(running, Vec::<u32>::new(), "{started} is what the plugin started, {worker} the worker");
    assert_eq!(ran.code, Some(130), "{}", ran.said);
    assert!(!ran.said.contains("SIGKILL") && events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
    place.nothing_is_left();
}

//! A run is never lost: whatever ends the processes that train, its folder goes on, to the bit, from at most
//! `--save-every` steps before.
//!
//! `FINETUNE_TEST_KILLS` sets how often the first test kills, `FINETUNE_TEST_SEED` the moments of all.
//! The others go through the changes of the file system one by one: tests/faults/shim.c.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use finetune_tests::faults::{Fault, inject};
use finetune_tests::processes::{descendants, kill, wait_for_end};
use finetune_tests::random::Random;
use finetune_tests::{events, finetune, goldens, json_lines, number, plugins, succeed};
use serde_json::Value;
use tempfile::TempDir;

/// A way to train, and what comes of it where nothing happens.
struct Unbroken {
    dir: TempDir,
    steps: u64,
    save_every: u64,
    losses: Vec<(u64, u64)>,
    adapter: Vec<u8>,
    time: Duration,
}

impl Unbroken {
    fn new(steps: u64, save_every: u64) -> Unbroken {
        let mut unbroken = Unbroken {
            dir: tempfile::tempdir().unwrap(),
            steps,
            save_every,
            losses: Vec::new(),
            adapter: Vec::new(),
            time: Duration::ZERO,
        };
        // One back end, so that there is no other to go on with, whose last bits could differ.
        let library = format!("{}finetune_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        fs::create_dir(unbroken.out("plugins")).unwrap();
        fs::copy(plugins().join(&library), unbroken.out("plugins").join(&library)).unwrap();
        // The first finds out about the plugins.
        for name in ["first", "whole"] {
            let (begun, out) = (Instant::now(), unbroken.out(name));
            unbroken.losses = losses(&json_lines(&succeed(&mut unbroken.train(&out))));
            unbroken.time = begun.elapsed();
        }
        unbroken.adapter = adapter(&unbroken.out("whole"));
        assert_eq!(unbroken.losses.len() as u64, steps);
        unbroken
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything that has state: dropout, shuffling, warmup, accumulation, a held-out loss.
    fn train(&self, out: &Path) -> Command {
        let mut command =
            finetune(["train", "--json", "--backend", "cpu", "--method", "lora", "--rank", "2"]);
        command.args(["--dropout", "0.1", "--batch", "2", "--micro-batch", "1", "--seq-len", "16"]);
        command.args(["--lr", "1e-2", "--warmup", "2", "--seed", "7", "--eval-every", "5"]);
        command.args(["--steps", &self.steps.to_string(), "--save-every", &self.save_every.to_string()]);
        command.arg("--plugins").arg(self.out("plugins")).arg("--model").arg(goldens().join("llama3/model"));
        command.arg("--data").arg(goldens().join("text/train.jsonl"));
        command.arg("--valid").arg(self.short_data()).arg("--out").arg(out);
        command
    }

    /// One batch.
    fn short_data(&self) -> PathBuf {
        let file = self.out("valid.jsonl");
        if !file.exists() {
            fs::write(&file, "{\"text\":\"Salt and water.\"}\n").unwrap();
        }
        file
    }

    /// As it goes on: by `--resume` alone, or, where the process died before there was a run, as it was begun.
    fn again(&self, out: &Path) -> Command {
        if !out.join(".config.toml").exists() && !out.join("config.toml").exists() {
            return self.train(out);
        }
        let mut command = finetune(["train", "--json", "--resume", "--plugins"]);
        command.arg(self.out("plugins")).arg("--out").arg(out);
        command
    }

    /// What is in the record now is the beginning of the unbroken run, whatever was cut off.
    #[track_caller]
    fn check_record(&self, out: &Path) {
        let text = fs::read(out.join("metrics.jsonl")).unwrap_or_default();
        let lines: Vec<Value> =
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        for (step, loss) in losses(&lines) {
            assert_eq!(
                Some(&(step, loss)),
                self.losses.get(step as usize - 1),
                "step {step} in {}",
                out.display()
            );
        }
    }

    /// Goes on to the end, which has to be that of the unbroken run; says what was told.
    #[track_caller]
    fn finish(&self, out: &Path, taken: u64) -> Vec<Value> {
        self.check_record(out);
        let lines = json_lines(&succeed(&mut self.again(out)));
        let from = number(events(&lines, "start")[0], "resumed_from") as u64;
        assert!(from + self.save_every >= taken, "{taken} steps were taken, and it goes on from {from}");
        self.check_end(out);
        lines
    }

    #[track_caller]
    fn check_end(&self, out: &Path) {
        let record = json_lines(&fs::read_to_string(out.join("metrics.jsonl")).unwrap());
        assert_eq!(losses(&record), self.losses, "every step once, as in the unbroken run");
        assert!(adapter(out) == self.adapter, "the adapter is not that of the unbroken run");
        for folder in [out.to_path_buf(), out.join("checkpoints")] {
            let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            let hidden: Vec<_> = names
                .filter(|name| name.to_str().unwrap().starts_with('.') && name != ".config.toml")
                .collect();
            assert!(hidden.is_empty(), "left behind: {hidden:?}");
        }
    }
}

fn losses(lines: &[Value]) -> Vec<(u64, u64)> {
    let steps = events(lines, "step");
    steps.iter().map(|step| (step["step"].as_u64().unwrap(), number(step, "loss").to_bits())).collect()
}

fn adapter(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// The last step that a file of events tells of; the last line may be cut off.
fn last_step(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    losses(&lines).last().map_or(0, |(step, _)| *step)
}

fn told(lines: &[Value], word: &str) -> bool {
    events(lines, "warning").iter().any(|event| event["message"].to_string().contains(word))
}

/// SIGKILL to whoever supervises, to whoever trains, or to all, at any moment from the first to the last, until the
/// run has come to its end in spite of it; and then the next run.
#[test]
fn killed_at_random_moments_a_run_comes_to_the_same_end() {
    let kills = std::env::var("FINETUNE_TEST_KILLS").map_or(300, |text| text.parse().expect("a number"));
    let mut random = Random::new();
    let unbroken = Unbroken::new(24, 2);
    let lanes = 2;
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (unbroken, random) = (&unbroken, random.split());
            scope.spawn(move || Killer { unbroken, random, lane, kills: kills / lanes }.go());
        }
    });
}

struct Killer<'a> {
    unbroken: &'a Unbroken,
    random: Random,
    lane: usize,
    kills: usize,
}

impl Killer<'_> {
    fn go(mut self) {
        for run in 0.. {
            let out = self.unbroken.out(&format!("run-{}-{run}", self.lane));
            let events = out.with_extension("events");
            // A process that is killed before it has come to a checkpoint brings a run no further.
            let (mut taken, mut lives) = (0, 0);
            while self.kills > 0 && !self.live(&out, &events, 1.0 + f64::from(lives) / 20.0) {
                let now = last_step(&events);
                lives = if now > taken { 0 } else { lives + 1 };
                taken = taken.max(now);
                self.unbroken.check_record(&out);
                self.check_repeated(&events, taken);
            }
            self.unbroken.finish(&out, taken);
            if self.kills == 0 {
                return;
            }
        }
    }

    /// One start of the program, and its end; true if it came to the end of the run.
    fn live(&mut self, out: &Path, events: &Path, patience: f64) -> bool {
        let stdout = File::options().create(true).append(true).open(events).unwrap();
        let errors = out.with_extension("errors");
        let mut command = self.unbroken.again(out);
        command.stdout(stdout).stderr(File::create(&errors).unwrap()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut worker_killed = false;
        loop {
            let delay = self.unbroken.time.mul_f64(self.random.part() * patience);
            if let Some(status) = ended_within(&mut child, delay) {
                let message = fs::read_to_string(&errors).unwrap();
                assert!(status.success() || worker_killed, "{status}: {message}");
                return status.success();
            }
            self.kills = self.kills.saturating_sub(1);
            let others = descendants(child.id());
            match (self.random.below(3), others.first()) {
                // Whoever supervises goes on, perhaps; the next kill comes in any case.
                (0, Some(worker)) => {
                    kill(*worker, false);
                    worker_killed = true;
                    continue;
                }
                (1, _) => kill(child.id(), false),
                _ => {
                    kill(child.id(), true);
                    others.iter().for_each(|other| kill(*other, false));
                }
            }
            child.wait().unwrap();
            let left = wait_for_end(&others, Duration::from_secs(20));
            assert!(left.is_empty(), "processes {left:?} outlive the one that had started them");
            return false;
        }
    }

    /// Each start goes on from at most `--save-every` steps before.
    fn check_repeated(&self, file: &Path, taken: u64) {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut last = 0;
        for line in lines {
            if line["event"] == "start" {
                let from = number(&line, "resumed_from") as u64;
                assert!(
                    from <= taken && from + self.unbroken.save_every >= last,
                    "{last} were taken, then from {from}"
                );
            }
            last = line["step"].as_u64().filter(|_| line["event"] == "step").unwrap_or(last);
        }
    }
}

/// Waits so long for its end.
fn ended_within(child: &mut Child, time: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        match end.checked_duration_since(Instant::now()) {
            Some(left) => std::thread::sleep(left.min(Duration::from_millis(1))),
            None => return None,
        }
    }
}

/// Numbers of changes at which a fault is met: all of them where that is asked for, else some.
fn moments(count: usize, some: usize, random: &mut Random) -> Vec<usize> {
    let step =
        if std::env::var_os("FINETUNE_TEST_KILLS").is_some() { 1 } else { count.div_ceil(some).max(1) };
    (1..=count).skip(random.below(step)).step_by(step).collect()
}

/// How many changes a run makes to its folder.
fn changes(unbroken: &Unbroken, name: &str) -> usize {
    let out = unbroken.out(name);
    let mut command = unbroken.train(&out);
    let log = inject(&mut command, Fault::Kill, 0, &out, unbroken.dir.path());
    succeed(&mut command);
    let count = most_changes(&log);
    assert!(count > 60, "{count} changes are less than a run makes: they are not seen");
    count
}

/// The most changes that one of the program's processes has made: each counts its own.
fn most_changes(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// Trains in a folder until the fault; how the program ended, what it said, and how many changes it had come to.
fn until_fault(unbroken: &Unbroken, out: &Path, fault: Fault, at: usize) -> (Option<i32>, String, usize) {
    let beside = unbroken.out(&format!("{}-beside", out.file_name().unwrap().to_str().unwrap()));
    fs::create_dir_all(&beside).unwrap();
    let mut command = unbroken.train(out);
    let log = inject(&mut command, fault, at, out, &beside);
    let events = File::create(out.with_extension("events")).unwrap();
    let output = command.stdout(events).stderr(Stdio::piped()).output().unwrap();
    let reached = most_changes(&log);
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), reached)
}

/// Does that for each of them, two at a time.
fn for_each_moment(moments: Vec<usize>, work: impl Fn(usize) + Sync) {
    let next = std::sync::Mutex::new(moments.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let moment = next.lock().unwrap().next();
                    let Some(moment) = moment else { return };
                    work(moment);
                }
            });
        }
    });
}

/// Ended before any one of the changes that it makes to its folder, be it by a signal or because the power is gone, a
/// run has a folder that goes on: nothing relies on a change that has not reached the disk.
#[test]
fn ended_before_any_change_of_a_file_a_run_goes_on() {
    let mut random = Random::new();
    let unbroken = Unbroken::new(3, 1);
    let count = changes(&unbroken, "counted");
    let turn = random.below(3);
    for_each_moment(moments(count, 60, &mut random), |at| {
        let faults = [Fault::Kill, Fault::Power, Fault::PowerWithoutRenames];
        let out = unbroken.out(&format!("at-{at}"));
        let fault = faults[(at + turn) % 3];
        let (code, message, reached) = until_fault(&unbroken, &out, fault, at);
        // Not every run makes all changes: some depend on how fast it is.
        assert!(code != Some(0) || reached < at, "{fault:?} at {at} ends the program: {message}");
        println!("{fault:?} before change {at} of {count}");
        unbroken.finish(&out, last_step(&out.with_extension("events")));
    });
}

/// A disk that is full, read-only or failing from any moment on ends the run with a sentence and damages nothing; it
/// goes on when the disk is well again, and not before.
#[test]
fn a_disk_that_fails_costs_a_sentence_and_no_run() {
    let mut random = Random::new();
    let unbroken = Unbroken::new(3, 1);
    let count = changes(&unbroken, "counted");
    let turn = random.below(3);
    for_each_moment(moments(count, 30, &mut random), |at| {
        let fault = [Fault::Full, Fault::ReadOnly, Fault::Failing][(at + turn) % 3];
        let out = unbroken.out(&format!("at-{at}"));
        println!("{fault:?} from change {at} of {count} on");
        let (code, message, _) = until_fault(&unbroken, &out, fault, at);
        let is_sentence = message.contains("error: ") && message.contains(fault.words());
        assert!(
            code == Some(0) || code == Some(1) && is_sentence && !message.contains("panicked"),
            "{fault:?} from change {at}: {code:?} {message}"
        );
        let taken = last_step(&out.with_extension("events"));
        if code == Some(1) && out.join("config.toml").exists() {
            let mut still = unbroken.again(&out);
            inject(&mut still, fault, 1, &out, &unbroken.out(&format!("at-{at}-beside")));
            let message = finetune_tests::fail(&mut still);
            assert!(message.contains(fault.words()), "{message}");
        }
        unbroken.finish(&out, taken);
    });
}

/// A bit that is not what it was, in any file of the last checkpoint: it is said, and the one before is used.
#[test]
fn a_bit_that_flips_in_the_last_checkpoint_is_found() {
    let mut random = Random::new();
    let unbroken = Unbroken::new(4, 2);
    let begun = unbroken.out("begun");
    let mut short = unbroken.train(&begun);
    succeed(short.args(["--steps", "4"]));
    let last = begun.join("checkpoints/step-00000004");
    let mut files: Vec<String> =
        fs::read_dir(&last).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    let mut flips: Vec<(String, usize)> = Vec::new();
    for name in &files {
        let bits = fs::metadata(last.join(name)).unwrap().len() as usize * 8;
        flips.extend((0..3).map(|_| (name.clone(), random.below(bits))));
    }
    for (i, (name, bit)) in flips.into_iter().enumerate() {
        let out = unbroken.out(&format!("flip-{i}"));
        copy(&begun, &out);
        let file = out.join("checkpoints/step-00000004").join(&name);
        let mut bytes = fs::read(&file).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bytes).unwrap();
        let lines = unbroken.finish(&out, 4);
        assert_eq!(
            number(events(&lines, "start")[0], "resumed_from"),
            2.0,
            "bit {bit} of {name} was not noticed"
        );
        assert!(told(&lines, "step-00000004") && told(&lines, "before it"), "bit {bit} of {name}: {lines:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => assert!(fs::copy(&path, &to).is_ok()),
        }
    }
}

/// Whatever a machine that went down has left of files that are written piece by piece, or aside, the run goes on.
#[test]
fn torn_files_and_leftovers_do_not_keep_a_run_from_going_on() {
    let unbroken = Unbroken::new(4, 2);
    let begun = unbroken.out("begun");
    let mut shorter = unbroken.train(&begun);
    succeed(shorter.args(["--steps", "2"]));
    let goes_on = |name: &str, tear: &dyn Fn(&Path)| {
        let out = unbroken.out(name);
        copy(&begun, &out);
        tear(&out);
        let mut command = finetune(["train", "--json", "--resume", "--steps", "4", "--plugins"]);
        let output = command.arg(unbroken.out("plugins")).arg("--out").arg(&out).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {message}");
        message
    };
    let cut =
        |file: &Path, length: u64| File::options().write(true).open(file).unwrap().set_len(length).unwrap();
    let end = |out: &Path| fs::metadata(out.join("metrics.jsonl")).unwrap().len();
    let append = |out: &Path, bytes: &[u8]| {
        let mut file = File::options().append(true).open(out.join("metrics.jsonl")).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
    };

    goes_on("line", &|out| cut(&out.join("metrics.jsonl"), end(out) - 9));
    unbroken.check_record(&unbroken.out("line"));
    // Cut within a character, and the zeros that some file systems leave.
    goes_on("character", &|out| append(out, b"{\"event\":\"warning\",\"message\":\"caf\xc3"));
    goes_on("zeros", &|out| append(out, &[0; 4096]));
    for name in ["character", "zeros"] {
        unbroken.check_end(&unbroken.out(name));
    }

    let config = fs::read(begun.join("config.toml")).unwrap();
    // Half a file of settings may be a valid one, of other settings.
    for length in [0, 1, config.len() / 3, config.len() / 2, config.len() - 1] {
        let name = format!("config-{length}");
        let message = goes_on(&name, &|out| cut(&out.join("config.toml"), length as u64));
        assert!(message.contains("config.toml"), "it is said: {message}");
        unbroken.check_end(&unbroken.out(&name));
    }
    goes_on("no-config", &|out| fs::remove_file(out.join("config.toml")).unwrap());
    unbroken.check_end(&unbroken.out("no-config"));

    goes_on("leftovers", &|out| {
        let checkpoints = out.join("checkpoints");
        for name in [".step-00000004.tmp-7-0", ".step-00000001.tmp-1-1", ".removed-1"] {
            fs::create_dir(checkpoints.join(name)).unwrap();
            fs::write(checkpoints.join(name).join("optimizer.safetensors"), "half").unwrap();
        }
        for name in [".metrics.jsonl.tmp-7-0", ".config.toml.tmp-7-1", "..config.toml.tmp-7-2"] {
            fs::write(out.join(name), "half").unwrap();
        }
        fs::create_dir(out.join(".adapter.tmp-7-3")).unwrap();
        fs::rename(out.join("adapter"), out.join(".adapter.old-7-4")).unwrap();
    });
    unbroken.check_end(&unbroken.out("leftovers"));
    // What a file manager puts into every folder is no leftover, and in nobody's way.
    goes_on("stranger", &|out| fs::write(out.join("checkpoints/.DS_Store"), "x").unwrap());
    assert!(unbroken.out("stranger/checkpoints/.DS_Store").exists());
}

//! A question to a plugin, asked in a child process that may do what it likes: it has a session (and no terminal), a
//! deadline and bounds of its own, and nothing of it is left when the answer is there.
//!
//! The answer comes over a socket that the child has instead of standard input and hides from the plugin; it
//! carries a number that only this question had. What the child prints is kept, a little of it, to be shown.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::orphans;
use super::process::{MARK, random, signal_name, sweep};

/// The hidden subcommand by which a child answers (`worker`).
pub const SUBCOMMAND: &str = "answer-as-plugin-child";
/// The longest answer.
const MAX_ANSWER: usize = 1 << 20;
/// What is kept of the child's output.
const MAX_OUTPUT: usize = 4 << 10;
/// How often the child is looked at while it is silent.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is looked for processes that it has started.
const LOOK_AROUND: Duration = Duration::from_millis(250);

/// What the child reads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    /// To be repeated in the answer.
    pub number: String,
    /// Processor time, over all threads.
    pub cpu_seconds: u64,
    /// What to do.
    pub task: Value,
}

/// What the child writes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub number: String,
    pub value: Value,
}

/// What a child may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub deadline: Duration,
    /// Bytes of memory that are really there; a GPU's runtime reserves address space far beyond it.
    pub memory: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// The deadline has passed.
    Late(String),
    /// Something killed it, perhaps the system for lack of memory.
    Killed(String),
    /// Anything else that the child did.
    Died(String),
    /// No fault of the plugin: no child could be started.
    NotAsked(String),
}

/// Starts `program` as a child, asks it and ends it.
pub(super) fn ask(program: &Path, task: Value, bounds: Bounds) -> Result<Value, Failure> {
    let not_asked =
        |error: io::Error| Failure::NotAsked(format!("cannot be asked: no child process: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(not_asked)?;
    let (number, mark) = (random(), random());
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).env(MARK, &mark);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Held until the child is gone and reaped.
    let _orphans = orphans::adopt();
    let child = command.spawn().map_err(not_asked)?;
    // The command holds the child's end of the socket; kept, it would hide that the child is gone.
    drop(command);
    let mut running = Running { child, mark, tail: Tail::default() };
    running.listen();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let cpu_seconds = bounds.deadline.as_secs().max(1).saturating_mul(cores) + 1;
    let question = Question { number, cpu_seconds, task };
    let line = serde_json::to_string(&question).expect("strings and numbers") + "\n";
    // A child that has died already is told of by what comes next.
    let _ = ours.set_write_timeout(Some(bounds.deadline)).and_then(|()| ours.write_all(line.as_bytes()));
    let outcome = running.wait_for_answer(&mut ours, &question.number, bounds);
    let status = running.end();
    let words = match outcome {
        Waited::Answer(_) => String::new(),
        _ => running.tail.last_words(),
    };
    match outcome {
        Waited::Answer(value) => Ok(value),
        Waited::Late { stopped } => Err(Failure::Late(format!(
            "did not answer within {} s{}{words}",
            bounds.deadline.as_secs_f64(),
            if stopped { "; it had stopped itself" } else { "" }
        ))),
        Waited::Memory => Err(Failure::Died(format!(
            "took more than {} MiB of memory while it was asked, and was ended{words}",
            bounds.memory >> 20
        ))),
        Waited::Garbage => Err(Failure::Died(format!("gave an answer that is none{words}"))),
        Waited::Gone => {
            use std::os::unix::process::ExitStatusExt;
            let killed = status.and_then(|status| status.signal()) == Some(Signal::KILL.as_raw());
            let reason = format!("{}{words}", ending(status));
            Err(if killed { Failure::Killed(reason) } else { Failure::Died(reason) })
        }
    }
}

enum Waited {
    Answer(Value),
    Late { stopped: bool },
    Memory,
    Garbage,
    Gone,
}

struct Running {
    child: Child,
    mark: String,
    tail: Tail,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn listen(&mut self) {
        if let Some(stdout) = self.child.stdout.take() {
            self.tail.listen(stdout);
        }
        if let Some(stderr) = self.child.stderr.take() {
            self.tail.listen(stderr);
        }
    }

    fn wait_for_answer(&self, channel: &mut UnixStream, number: &str, bounds: Bounds) -> Waited {
        let end = Instant::now() + bounds.deadline;
        let mut watch = Watch::new(self.child.id());
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        if channel.set_read_timeout(Some(LOOK)).is_err() {
            return Waited::Gone;
        }
        loop {
            match channel.read(&mut piece) {
                Ok(0) => return Waited::Gone,
                Ok(length) => {
                    received.extend_from_slice(&piece[..length]);
                    if let Some(end) = received.iter().position(|&byte| byte == b'\n') {
                        return understood(&received[..end], number);
                    }
                    if received.len() > MAX_ANSWER {
                        return Waited::Garbage;
                    }
                }
                Err(error) if is_timeout(&error) => {
                    // Something that the child started may hold its end of the socket.
                    if self.has_ended() {
                        return Waited::Gone;
                    }
                }
                Err(_) => return Waited::Gone,
            }
            if Instant::now() >= end {
                return Waited::Late { stopped: watch.is_stopped() };
            }
            if watch.memory() > bounds.memory {
                return Waited::Memory;
            }
        }
    }

    /// Whether it is dead; it is not reaped yet, so that its number stays its own.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid()), options), Ok(Some(_)))
    }

    /// Ends the group and all that left it, and reaps the child.
    fn end(&mut self) -> Option<std::process::ExitStatus> {
        let dead = self.has_ended_soon();
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.kill();
        let status = self.child.wait().ok();
        sweep(&self.mark);
        status.filter(|_| dead)
    }

    /// The socket closes a moment before the process is dead.
    fn has_ended_soon(&self) -> bool {
        for _ in 0..50 {
            if self.has_ended() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

fn understood(line: &[u8], number: &str) -> Waited {
    match serde_json::from_slice::<Answer>(line) {
        Ok(answer) if answer.number == number => Waited::Answer(answer.value),
        _ => Waited::Garbage,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Memory and state of the child.
struct Watch {
    /// None where the system does not tell of processes.
    system: Option<System>,
    /// The child, and what it has started.
    pids: Vec<sysinfo::Pid>,
    looked_around: Instant,
}

impl Watch {
    fn new(pid: u32) -> Watch {
        let pids = vec![sysinfo::Pid::from_u32(pid)];
        Watch { system: System::new().ok(), pids, looked_around: Instant::now() }
    }

    fn refresh(&mut self) -> Option<&System> {
        if self.looked_around.elapsed() > LOOK_AROUND {
            let child = self.pids[0];
            self.pids.truncate(1);
            self.pids.extend(orphans::started_by(child.as_u32()).into_iter().map(sysinfo::Pid::from_u32));
            self.looked_around = Instant::now();
        }
        let what = ProcessRefreshKind::nothing().with_memory();
        let system = self.system.as_mut()?;
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&self.pids), true, what);
        Some(system)
    }

    fn memory(&mut self) -> u64 {
        self.refresh();
        let Some(system) = &self.system else { return 0 };
        self.pids.iter().filter_map(|pid| system.process(*pid)).map(sysinfo::Process::memory).sum()
    }

    fn is_stopped(&mut self) -> bool {
        let child = self.pids[0];
        let process = self.refresh().and_then(|system| system.process(child));
        process.is_some_and(|process| process.status() == sysinfo::ProcessStatus::Stop)
    }
}

/// The end of what a child printed. Its readers are threads that nobody waits for: what a plugin left behind may
/// hold the pipe open.
#[derive(Clone, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn listen(&self, mut from: impl Read + Send + 'static) {
        let tail = self.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                let mut kept = tail.0.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..length]);
                let surplus = kept.len().saturating_sub(MAX_OUTPUT);
                kept.drain(..surplus);
            }
        });
    }

    /// The last line, as an addition to a sentence.
    fn last_words(&self) -> String {
        const LONGEST: usize = 160;
        // The readers come to the end of what is left in the pipe, unless something holds it open.
        for _ in 0..100 {
            if Arc::strong_count(&self.0) == 1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        if !text.trim().is_empty() {
            tracing::debug!("a plugin's child printed at its end:\n{}", text.trim_end());
        }
        match text.lines().rev().find(|line| !line.trim().is_empty()) {
            None => String::new(),
            Some(line) => {
                let line: String = line.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
                format!("; it printed {line:?}")
            }
        }
    }
}

fn ending(status: Option<std::process::ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("ended the process with exit code {code} instead of answering"),
        Some((None, Some(9))) => "was killed while it was asked, perhaps for lack of memory (SIGKILL)".into(),
        Some((None, Some(signal))) => format!("crashed while it was asked ({})", signal_name(signal)),
        _ => "closed the connection instead of answering".into(),
    }
}

//! A worker as the supervisor has it: its process, and what it says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::plugins::process::{forget_worker, random, release_worker, signal_name, start_worker, sweep};

use super::message::{Command, Message, Task};

/// The longest line that a worker sends.
const LONGEST: u64 = 64 << 20;
/// Messages that wait to be heard before the worker has to.
const WAITING: usize = 256;
/// The longest piece of a plugin's output that is shown as a line.
const LONGEST_OUTPUT: u64 = 4 << 10;
/// How long the supervisor waits for a worker that does not read.
const WRITE: Duration = Duration::from_secs(5);

/// What comes from a worker.
#[derive(Debug)]
pub(super) enum Heard {
    /// What it says.
    Message(Box<Message>),
    /// What is none of its messages: something else has written to the socket.
    Garbage,
    /// Nothing more.
    Closed,
}

/// A worker.
pub(super) struct Worker {
    child: Child,
    mark: String,
    socket: UnixStream,
    heard: Receiver<Heard>,
    output: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts one: `program` with these arguments. `show` gets what plugins print.
    pub(super) fn start(
        program: &Path,
        arguments: &[String],
        snapshots: Option<&File>,
        task: &Task,
        show: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Worker> {
        let (socket, theirs) = UnixStream::pair()?;
        let mark = random();
        let mut process = Process::new(program);
        process.arg0("finetune").args(arguments).stdin(Stdio::from(OwnedFd::from(theirs)));
        process.stdout(match snapshots {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        });
        let mut child = start_worker(process.stderr(Stdio::piped()), &mark)?;
        // It holds the worker's end of the socket; kept, it would hide that the worker is gone.
        drop(process);
        let output = child.stderr.take().map(|from| std::thread::spawn(move || relay(from, show)));
        let (sender, heard) = sync_channel(WAITING);
        let from = socket.try_clone()?;
        std::thread::spawn(move || hear(from, &sender));
        socket.set_write_timeout(Some(WRITE))?;
        let mut worker = Worker { child, mark, socket, heard, output };
        // A worker that has died already is told of by what comes next.
        worker.send(task)?;
        Ok(worker)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it something.
    pub(super) fn tell(&mut self, command: &Command) {
        // If it does not listen any more, its silence or its end will show.
        let _ = self.send(command);
    }

    fn send(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        match self.socket.write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// What it says next, if it says something soon.
    pub(super) fn hear(&self, soon: Duration) -> Option<Heard> {
        self.heard.recv_timeout(soon).ok()
    }

    /// Ends it and all that it has started. How it had ended, if it had by itself.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        release_worker(&self.mark);
        let mut ended = None;
        // The socket closes a moment before the process is dead.
        for _ in 0..50 {
            ended = self.child.try_wait().ok().flatten();
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // What is left in the pipe is shown; something that holds it open is not waited for.
        if let Some(output) = self.output.take() {
            for _ in 0..100 {
                if output.is_finished() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        ended
    }

    /// Ends it and all that it has started, having heard all there is.
    pub(super) fn finish(self) {
        drop(self);
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        release_worker(&self.mark);
        let _ = self.child.wait();
        sweep(&self.mark);
        forget_worker(&self.mark);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn hear(from: UnixStream, to: &SyncSender<Heard>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let heard = match from.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Heard::Closed,
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(message) => Heard::Message(Box::new(message)),
                Err(_) => Heard::Garbage,
            },
        };
        let last = !matches!(heard, Heard::Message(_));
        if to.send(heard).is_err() || last {
            return;
        }
    }
}

/// Shows what a plugin prints, line by line and with nothing that a terminal would obey.
fn relay(from: impl Read, show: impl Fn(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.by_ref().take(LONGEST_OUTPUT).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let plain =
                    |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
                let text: String = text.trim_end_matches(['\n', '\r']).chars().map(plain).collect();
                show(&text);
            }
        }
    }
}

/// How a process ended, as a verb with what it needs.
pub(super) fn ending(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("ended its process with exit code {code}"),
        Some((None, Some(9))) => "was killed (SIGKILL)".into(),
        Some((None, Some(signal))) => format!("crashed ({})", signal_name(signal)),
        _ => "closed the connection to the program".into(),
    }
}

/// Whether it was killed by a signal that no plugin and no bug raises.
pub(super) fn was_killed(status: Option<ExitStatus>) -> bool {
    status.and_then(|status| status.signal()) == Some(9)
}

//! The worker's side: it trains as the supervisor asks, and tells it everything.
//!
//! The supervisor's socket stands in for standard input and the file of snapshots for standard output; both are hidden
//! from the plugin before it is loaded. Nothing that a plugin prints is taken for what the worker says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use finetune_plugin_api::abi::ErrorKind;
use rustix::process::{Signal, getpid, kill_process};

use crate::plugins::{Choice, DeviceError, PluginError};
use crate::precision::Precision;

use super::super::backend::Backend;
use super::super::config::PrecisionChoice;
use super::super::error::TrainError;
use super::super::event::{Cause, Event, Observer};
use super::super::oversight::{Oversight, Pulse, Records};
use super::super::run::{Run, TrainRequest};
use super::super::stop::StopFlag;
use super::message::{Command, Failure, Message, Task};

/// The longest line that the supervisor sends.
const LONGEST: u64 = 64 << 20;

/// The worker's end of the socket. Written to, it passes text on for a person.
#[derive(Clone)]
pub struct Channel {
    socket: Arc<Mutex<UnixStream>>,
    snapshots: Arc<Mutex<Option<File>>>,
}

impl Channel {
    /// Takes over what stands in for standard input and output, and ties this process to its supervisor.
    ///
    /// # Errors
    /// This process was not started by a supervisor.
    pub fn take() -> io::Result<Channel> {
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        #[cfg(target_os = "linux")]
        {
            // Elsewhere the closed socket tells of the supervisor's end.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Where memory runs out, this process goes and the supervisor stays.
            let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        }
        let snapshots = file.metadata()?.is_file().then_some(file);
        let socket = Arc::new(Mutex::new(UnixStream::from(socket)));
        Ok(Channel { socket, snapshots: Arc::new(Mutex::new(snapshots)) })
    }

    fn send(&self, message: &Message) {
        let mut line = serde_json::to_vec(message).expect("strings and numbers");
        line.push(b'\n');
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.write_all(&line).is_err() {
            die();
        }
    }

    /// What to do, and from here on what else the supervisor says. Its end is this process's.
    fn listen(&self, stop: StopFlag, records: Records) -> io::Result<Task> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).try_clone()?;
        let mut socket = BufReader::new(socket);
        let task = serde_json::from_str(&line(&mut socket)?)?;
        std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            while let Ok(line) = line(&mut socket) {
                match serde_json::from_str(&line) {
                    Ok(Command::Stop) => stop.stop(),
                    Ok(Command::Record(event)) => records.add(event),
                    Err(_) => break,
                }
            }
            die();
        })?;
        Ok(task)
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.send(&Message::Text(text.strip_suffix('\n').unwrap_or(&text).into()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match from.take(LONGEST).read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

/// Ends this process as nothing of a plugin's could hinder.
fn die() -> ! {
    loop {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Does what the supervisor asks. Returns only where it cannot be understood: when all is said, the supervisor ends
/// this process, so that a plugin's last acts cannot spoil what is done.
///
/// # Errors
/// This process was not started by a supervisor.
pub fn serve(
    channel: &Channel,
    open: impl FnOnce(&Choice) -> Result<Backend, PluginError>,
) -> io::Result<std::convert::Infallible> {
    let (stop, records) = (StopFlag::new(), Records::default());
    let task = channel.listen(stop.clone(), records.clone())?;
    if let Err(failure) = work(channel, task, &stop, records, open) {
        channel.send(&Message::Failed(failure));
    }
    wait()
}

fn wait() -> ! {
    loop {
        std::thread::park();
    }
}

/// Trains. When there is an end it is told with the device still open: closing it could go wrong.
fn work(
    channel: &Channel,
    task: Task,
    stop: &StopFlag,
    records: Records,
    open: impl FnOnce(&Choice) -> Result<Backend, PluginError>,
) -> Result<(), Failure> {
    let mut config = task.given.resolve(PathBuf::from(task.out)).map_err(|error| ours(error.to_string()))?;
    config.micro_batch = task.micro_batch;
    config.precision = match task.precision {
        Some(Precision::F32) => PrecisionChoice::F32,
        Some(Precision::Bf16) => PrecisionChoice::Bf16,
        None => config.precision,
    };
    let backend = open(&task.choice).map_err(plugin_failure)?;
    let request = TrainRequest { config, settings: task.kept, resume: task.resume };
    let signs = channel.clone();
    let oversight = Oversight {
        again: task.again,
        history: task.history,
        snapshots: channel.snapshots.lock().unwrap_or_else(PoisonError::into_inner).take(),
        records,
        pulse: Pulse::new(move |sign| signs.send(&Message::Sign(sign))),
    };
    let mut teller = Teller(channel.clone());
    let mut run = Run::prepare(&request, backend, &mut teller, oversight).map_err(failure)?;
    let last = match run.go(stop) {
        Ok(summary) => Message::Done { stopped: summary.stopped },
        Err(error) => Message::Failed(failure(error)),
    };
    channel.send(&last);
    wait()
}

/// Tells the supervisor.
struct Teller(Channel);

impl Observer for Teller {
    fn event(&mut self, event: &Event) {
        let path = match event {
            Event::Saved { path, .. } => Some(path.as_path().into()),
            _ => None,
        };
        self.0.send(&Message::Event { event: event.clone(), path });
    }

    fn progress(&mut self, what: &str, done: u64, total: u64) {
        self.0.send(&Message::Progress { what: what.into(), done, total });
    }
}

fn failure(error: TrainError) -> Failure {
    let cause = match &error {
        TrainError::Device(error) => Some(device_cause(error)),
        TrainError::DoesNotFit(_) => Some(Cause::DoesNotFit),
        TrainError::WrongNumbers(_) => Some(Cause::WrongNumbers),
        _ => None,
    };
    Failure { cause, message: error.to_string() }
}

fn plugin_failure(error: PluginError) -> Failure {
    let cause = match &error {
        PluginError::Device(error) => Some(device_cause(error)),
        PluginError::Refused { .. } => Some(Cause::Unsupported),
        _ => None,
    };
    Failure { cause, message: error.to_string() }
}

fn ours(message: String) -> Failure {
    Failure { cause: None, message }
}

fn device_cause(error: &DeviceError) -> Cause {
    match error.kind {
        ErrorKind::OutOfMemory => Cause::OutOfMemory,
        ErrorKind::DeviceLost => Cause::DeviceLost,
        ErrorKind::Unsupported | ErrorKind::InvalidProgram | ErrorKind::Unavailable => Cause::Unsupported,
        _ => Cause::Error,
    }
}

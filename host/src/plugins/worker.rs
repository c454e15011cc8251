//! The child's side of [`super::child`]: it hides the socket, bounds itself, does the task and answers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;

use super::child::{Answer, Question};

/// The longest question.
const MAX_QUESTION: u64 = 1 << 20;

/// Reads the question from the socket that stands in for standard input, has it worked on, and answers.
///
/// # Errors
/// This process was not started by the host.
pub fn answer(work: impl FnOnce(Value) -> Value) -> std::io::Result<()> {
    // A session of its own has no terminal to read from or to write to, and is left by none of what it starts.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!("a plugin's child has no session of its own: {error}");
    }
    // From here on nothing that the plugin reads, or starts, has the socket.
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut socket = UnixStream::from(socket);
    let mut line = String::new();
    BufReader::new((&socket).take(MAX_QUESTION)).read_line(&mut line)?;
    let question: Question = serde_json::from_str(&line)?;
    bound(question.cpu_seconds);
    let answer = Answer { value: work(question.task), number: question.number };
    socket.write_all((serde_json::to_string(&answer)? + "\n").as_bytes())?;
    // The host ends this process now. Ending by itself would run what the plugin has left for the end.
    while socket.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// What the system can hold this process to. What it cannot, the host watches.
fn bound(cpu_seconds: u64) {
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    for (resource, value) in [(Resource::Cpu, cpu_seconds), (Resource::Core, 0)] {
        if let Err(error) = setrlimit(resource, limit(value)) {
            tracing::debug!("a plugin's child goes without a bound on {resource:?}: {error}");
        }
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Without it an interrupted host would leave its children.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        // Where memory runs out, this process goes first.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
}

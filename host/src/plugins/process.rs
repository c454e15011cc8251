//! What is common to the processes that this program starts from itself.

use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Marks all that a child starts, so that it is found when it has left the group.
pub const MARK: &str = "FINETUNE_PLUGIN_CHILD";

/// Ends every process that has the mark in its environment, until there is none: they left the child's group.
pub fn sweep(mark: &str) {
    let entry = format!("{MARK}={mark}");
    for _ in 0..100 {
        let mut found = false;
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let Some(pid) =
                process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            let Ok(environment) = std::fs::read(process.path().join("environ")) else { continue };
            if environment.split(|&byte| byte == 0).any(|variable| variable == entry.as_bytes()) {
                found |= kill_process(pid, Signal::KILL).is_ok();
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The marks of processes that train, with their numbers: what is ended with this process when it may not wait.
static WORKERS: Mutex<Vec<(String, Option<u32>)>> = Mutex::new(Vec::new());

fn workers() -> MutexGuard<'static, Vec<(String, Option<u32>)>> {
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process that trains. All that it starts has `mark`, until [`forget_worker`] takes it off.
///
/// # Errors
/// It cannot be started.
pub fn start_worker(command: &mut Command, mark: &str) -> std::io::Result<Child> {
    // Held while it starts: `end_workers` finds it running, or it never runs.
    let mut workers = workers();
    let child = command.env(MARK, mark).spawn()?;
    workers.push((mark.to_owned(), Some(child.id())));
    Ok(child)
}

/// A worker is about to be waited for: its number may soon be another's.
pub fn release_worker(mark: &str) {
    workers().iter_mut().filter(|(of, _)| of == mark).for_each(|(_, process)| *process = None);
}

/// A worker is ended, and all that it had started.
pub fn forget_worker(mark: &str) {
    workers().retain(|(of, _)| of != mark);
}

/// Waits for ever if this process is being ended; what its workers' end looks like then is nobody's business.
pub fn wait_if_ending() {
    drop(workers());
}

/// Ends all workers and all that they have started, and lets no other start: this process is to end right after.
pub fn end_workers() {
    let workers = workers();
    for (mark, process) in workers.iter() {
        if let Some(pid) = process.and_then(|process| i32::try_from(process).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        sweep(mark);
    }
    std::mem::forget(workers);
}

/// A signal's name, and what it means where that is no common knowledge.
pub fn signal_name(signal: i32) -> String {
    let Some(name) = signal_hook::low_level::signal_name(signal) else { return format!("signal {signal}") };
    match Signal::from_named_raw(signal) {
        Some(Signal::XCPU) => format!("{name}: it used up its processor time"),
        Some(Signal::XFSZ) => format!("{name}: a file grew past the limit of its size, ulimit -f"),
        _ => name.to_owned(),
    }
}

/// 128 bits that nobody guesses.
pub fn random() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

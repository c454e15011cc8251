//! What is common to the processes that this program starts from itself.

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

/// A signal's name, and what it means where that is no common knowledge.
pub fn signal_name(signal: i32) -> String {
    Signal::from_named_raw(signal).map_or_else(
        || format!("signal {signal}"),
        |named| match named {
            Signal::SEGV => "SIGSEGV".into(),
            Signal::ABORT => "SIGABRT".into(),
            Signal::BUS => "SIGBUS".into(),
            Signal::ILL => "SIGILL".into(),
            Signal::FPE => "SIGFPE".into(),
            Signal::XCPU => "SIGXCPU: it used up its processor time".into(),
            Signal::TRAP => "SIGTRAP".into(),
            Signal::SYS => "SIGSYS".into(),
            Signal::TERM => "SIGTERM".into(),
            Signal::PIPE => "SIGPIPE".into(),
            _ => format!("signal {signal}"),
        },
    )
}

/// 128 bits that nobody guesses.
pub fn random() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1))
}

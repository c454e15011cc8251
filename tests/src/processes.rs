//! The processes that a program has started, and how they end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// All that a process has started and what those have started, as far as the system tells.
pub fn descendants(process: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![process];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.remove(0);
    found
}

/// Every process's parent.
fn parents() -> BTreeMap<u32, u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(|number| Some((number, stat(number)?.1))).collect()
}

/// State and parent.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

/// Whether it is there and is no zombie.
pub fn runs(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z')
}

/// Waits until all of them have ended; those that have not in time.
pub fn wait_for_end(processes: &[u32], time: Duration) -> Vec<u32> {
    let end = Instant::now() + time;
    loop {
        let left: Vec<u32> = processes.iter().copied().filter(|process| runs(*process)).collect();
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// SIGKILL to a process, or to a process group.
#[cfg(unix)]
pub fn kill(process: u32, group: bool) {
    use rustix::process::{Pid, Signal, kill_process, kill_process_group};
    let pid = Pid::from_raw(process as i32).expect("a process's number");
    // It may have ended by itself.
    let _ = if group { kill_process_group(pid, Signal::KILL) } else { kill_process(pid, Signal::KILL) };
}

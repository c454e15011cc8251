//! Ctrl-C and the system's request to end.

use anyhow::Context;

use crate::train::StopFlag;

use super::display::Screen;

/// The exit status of a process that was interrupted, as shells have it: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;

/// How long the word on it may take before the request to stop takes effect.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Asks `stop` at the first Ctrl-C or request to end, saying `message`, and ends the process, with all that its workers
/// have started, at the second. What was ignored when the program began (`nohup`) stays ignored.
///
/// # Errors
/// The system lets no handler be installed.
pub fn install(stop: &StopFlag, screen: &Screen, message: &'static str) -> anyhow::Result<()> {
    let (stop, screen) = (stop.clone(), screen.clone());
    on_signal(move || {
        if stop.is_set() {
            end_at_once();
        }
        // Whoever reads the screen may have stopped reading: it is waited for only so long, and the next signal is heard
        // all the same.
        let (screen, (said, is_said)) = (screen.clone(), std::sync::mpsc::channel());
        let say = move || {
            screen.line(message);
            let _ = said.send(());
        };
        let thread = std::thread::Builder::new().name("interrupt".into()).spawn(say);
        let _ = thread.map(|_| is_said.recv_timeout(PATIENCE));
        stop.stop();
    })
    .context("cannot install a handler for Ctrl-C")
}

#[cfg(unix)]
use unix::{end_at_once, on_signal};
#[cfg(unix)]
pub use unix::{outlive, survive_file_limit};

#[cfg(unix)]
mod unix {
    use std::io;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

    use super::INTERRUPTED;

    /// Has a write past the limit of a file's size (`ulimit -f`) fail with an error, as one to a full disk does, where
    /// it would end the process. Not by ignoring the signal: what plugins start is to have it as it was.
    ///
    /// # Errors
    /// The system lets no handler be installed.
    pub fn survive_file_limit() -> io::Result<()> {
        nothing_at(SIGXFSZ)
    }

    /// Has this process go on at Ctrl-C and at requests to end, which are for another that rules it.
    ///
    /// # Errors
    /// The system lets no handler be installed.
    pub fn outlive() -> io::Result<()> {
        heard().into_iter().try_for_each(nothing_at)
    }

    fn nothing_at(signal: i32) -> io::Result<()> {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map(drop)
    }

    /// Calls `act` at each signal that asks the process to end, in a thread of its own.
    pub(super) fn on_signal(act: impl Fn() + Send + 'static) -> io::Result<()> {
        let mut signals = signal_hook::iterator::Signals::new(heard())?;
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().for_each(|_| act()))
            .map(drop)
    }

    /// Ends this process and all that its workers have started. Nothing that another thread holds is waited for: not
    /// the screen, and not what is done at a usual end.
    pub(super) fn end_at_once() -> ! {
        crate::plugins::process::end_workers();
        signal_hook::low_level::exit(INTERRUPTED.into())
    }

    /// The signals that ask to end, without those that this process was started to ignore.
    fn heard() -> Vec<i32> {
        let mut heard = vec![SIGTERM];
        heard.extend([SIGINT, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)));
        heard
    }

    /// Whether nothing happens at a signal; to be asked before there is a handler.
    fn is_ignored(signal: i32) -> bool {
        let told = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| mask(&status));
        told.map_or_else(|| a_child_ignores(signal), |mask| mask >> (signal - 1) & 1 == 1)
    }

    /// The signals that are ignored, as Linux tells of a process: the first is the lowest bit.
    fn mask(status: &str) -> Option<u64> {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    }

    /// The same by trial, for systems that tell nothing: a process inherits what is ignored, and no handlers.
    fn a_child_ignores(signal: i32) -> bool {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("kill -{signal} $$; exit 0")]).env_clear();
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        shell.status().is_ok_and(|status| status.success())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Both ways to find out come to the same.
        #[test]
        fn what_is_ignored_is_known_both_ways() {
            assert_eq!(mask("Name:\tx\nSigIgn:\t0000000000001001\n"), Some(0x1001));
            assert_eq!(mask("Name:\tx\n"), None);
            for signal in [SIGHUP, SIGINT, signal_hook::consts::SIGUSR1] {
                assert_eq!(is_ignored(signal), a_child_ignores(signal), "signal {signal}");
            }
            if cfg!(target_os = "linux") {
                assert!(is_ignored(signal_hook::consts::SIGPIPE));
            }
            // What the shell of a trial is asked, in one that ignores the signal and in one that does not.
            for (before, ignores) in [("trap '' HUP; ", true), ("", false)] {
                let trial = format!("{before}exec /bin/sh -c 'kill -{SIGHUP} $$; exit 0'");
                let status = Command::new("/bin/sh").args(["-c", &trial]).status().expect("a shell");
                assert_eq!(status.success(), ignores, "{trial}");
            }
        }
    }
}

#[cfg(not(unix))]
fn on_signal(act: impl Fn() + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(act)
}

#[cfg(not(unix))]
fn end_at_once() -> ! {
    std::process::exit(INTERRUPTED.into())
}

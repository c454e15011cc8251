//! Ctrl-C and the system's request to end.

use anyhow::Context;

use crate::train::StopFlag;

use super::display::Screen;

/// The exit status of a process that was interrupted, as shells have it: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;

/// Asks `stop` at the first Ctrl-C or request to end, saying `message`, and ends the process at the second.
///
/// # Errors
/// The system lets no handler be installed.
pub fn install(stop: &StopFlag, screen: &Screen, message: &'static str) -> anyhow::Result<()> {
    let (stop, screen) = (stop.clone(), screen.clone());
    ctrlc::set_handler(move || {
        if stop.is_set() {
            std::process::exit(INTERRUPTED.into());
        }
        stop.stop();
        screen.line(message);
    })
    .context("cannot install a handler for Ctrl-C")
}

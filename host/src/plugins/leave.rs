//! The end of a process that has loaded plugins.

use std::io::Write;

/// Ends the process with that exit status.
///
/// What libraries have put off until the process ends (`atexit`, destructors of statics) is not run: plugins stay
/// loaded to the end, and some of what they stand on fails in just that moment. MLX for CUDA aborts there now and then,
/// when its threads find the driver gone; what was done would count as failed.
pub fn leave(status: u8) -> ! {
    // Who cannot be told of a failure has closed it.
    let _ = std::io::stdout().flush();
    #[cfg(unix)]
    signal_hook::low_level::exit(status.into());
    #[cfg(not(unix))]
    std::process::exit(status.into())
}

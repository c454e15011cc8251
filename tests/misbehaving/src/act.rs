//! What it does to the process that it is in.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use finetune_plugin_api::export::{Error, ErrorKind};

/// A report as a host might take it for the plugin's answer.
const FORGED: &str = r#"{"status":"ready","devices":[{"index":0,"name":"forged","kind":"gpu","memory_total":1,"memory_available":1,"unified":false,"dtypes":["f32"]}]}"#;

/// Does it. Most do not return.
pub fn act(action: &str) -> Result<(), Error> {
    let (verb, rest) = action.split_once(' ').unwrap_or((action, ""));
    match verb {
        "segv" => signal(libc::SIGSEGV),
        "kill" => signal(libc::SIGKILL),
        "stop" => signal(libc::SIGSTOP),
        "abort" => std::process::abort(),
        "exit" => exit(rest.parse().unwrap_or(0)),
        "at-exit" => at_exit(),
        "loop" => spin(),
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        "slow" => std::thread::sleep(Duration::from_millis(rest.parse().unwrap_or(1000))),
        "flood" => flood(),
        "print" => println!("{FORGED}\n\u{1b}[31mhello from a plugin"),
        "forge" => {
            println!("{FORGED}");
            eprintln!("{FORGED}");
            let _ = std::io::stdout().flush();
            exit(0);
        }
        "garbage" => {
            garbage();
            exit(0);
        }
        "panic" => panic!("a plugin's panic"),
        "leak" => leak(rest.parse().unwrap_or(1 << 20)),
        "leave" => leave(rest),
        "touch" => drop(std::fs::write(rest, "ran")),
        "error" => return Err(error(rest)),
        "say" => {
            let text = rest.replace("ESC", "\u{1b}");
            return Err(Error::internal(if rest == "much" { "much ".repeat(1 << 20) } else { text }));
        }
        "error-untouched" => return Err(error(rest).untouched()),
        _ => return Err(Error::internal(format!("this test asks for {action:?}, which means nothing"))),
    }
    Ok(())
}

fn error(kind: &str) -> Error {
    let kind = match kind {
        "out-of-memory" => ErrorKind::OutOfMemory,
        "device-lost" => ErrorKind::DeviceLost,
        "unsupported" => ErrorKind::Unsupported,
        "unavailable" => ErrorKind::Unavailable,
        "invalid-program" => ErrorKind::InvalidProgram,
        "invalid-argument" => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("made up for a test: {}", kind.words()))
}

fn signal(signal: i32) {
    // A handler of the host's would be as good as none: the plugin means to be ended by it.
    // SAFETY: plain calls of the C library with valid arguments.
    unsafe {
        if signal == libc::SIGSEGV {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::raise(signal);
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process, running nothing of anyone's.
    unsafe { libc::_exit(status) }
}

/// As a library fails whose statics are torn down in the wrong order.
fn at_exit() {
    extern "C" fn fail() {
        std::process::abort();
    }
    // SAFETY: the function stays: the host never unloads a plugin.
    unsafe {
        libc::atexit(fail);
    }
}

fn spin() -> ! {
    loop {
        std::hint::black_box(0);
    }
}

fn flood() -> ! {
    let line = [b'x'; 4096];
    loop {
        let _ = std::io::stdout().write_all(&line);
        let _ = std::io::stderr().write_all(&line);
    }
}

/// Noise to every file that is open, whatever it is for.
fn garbage() {
    let noise: Vec<u8> = (0..997_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for descriptor in 1..64 {
        // SAFETY: the bytes are valid for their length; a descriptor that is none is an error of the call.
        unsafe {
            libc::write(descriptor, noise.as_ptr().cast(), noise.len());
        }
    }
}

/// Bytes that are never given back, written so that the system has to find them.
fn leak(bytes: usize) {
    std::mem::forget(vec![1_u8; bytes]);
}

/// A process that outlives this one, in the same process group; the file gets its number.
fn leave(file: &str) {
    if let Ok(child) = Command::new("sleep").arg("300").stdin(Stdio::null()).spawn() {
        let _ = std::fs::write(file, child.id().to_string());
    }
}

//! What whole-program tests share: the real binary, the real plugins, and reading what it prints.

#[cfg(unix)]
pub mod failing;
pub mod faults;
pub mod loaded;
pub mod misbehaving;
pub mod processes;
pub mod random;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The binary under test: `FINETUNE_BIN`, or the one beside the test's own build.
pub fn binary() -> PathBuf {
    #[cfg(unix)]
    pass_signals_on();
    built("FINETUNE_BIN", &format!("finetune{}", std::env::consts::EXE_SUFFIX))
}

/// What a test starts is to hear Ctrl-C although the tests themselves were started without (in the background, or by
/// `nohup`): what is ignored would be ignored by it, too, and what has a handler is not.
#[cfg(unix)]
fn pass_signals_on() {
    use signal_hook::consts::{SIGHUP, SIGINT};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"));
        for signal in [SIGHUP, SIGINT] {
            if ignored >> (signal - 1) & 1 == 1 {
                let nobody = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
                signal_hook::flag::register(signal, nobody).expect("a handler");
            }
        }
    });
}

/// The plugins under test: `FINETUNE_PLUGINS_DIR`, or those beside the test's own build.
pub fn plugins() -> PathBuf {
    built("FINETUNE_PLUGINS_DIR", "plugins")
}

/// The name of candle's plugin: the processor's, Metal's on a Mac, or what `FINETUNE_CANDLE` says (`candle-cuda`).
pub fn candle() -> String {
    let here = if cfg!(target_os = "macos") { "candle-metal" } else { "candle-cpu" };
    std::env::var("FINETUNE_CANDLE").unwrap_or_else(|_| here.to_owned())
}

/// The library of plugin-api's example plugin, beside the test's own build.
pub fn example_plugin() -> PathBuf {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    built("FINETUNE_EXAMPLE_PLUGIN", &format!("examples/{prefix}tiny{suffix}"))
}

fn built(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test knows where it is");
    let found = test.ancestors().map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not built; run the tests by `cargo xtask test`"))
}

/// The folder of golden data: `FINETUNE_GOLDENS_DIR`, or the one in the sources.
pub fn goldens() -> PathBuf {
    let named = std::env::var_os("FINETUNE_GOLDENS_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/data"))
}

/// What the program learns of plugins during the tests, once for all of them; never the user's own cache.
fn cache() -> PathBuf {
    binary().canonicalize().expect("it is built").with_file_name("test-cache")
}

/// `finetune` with these arguments, over the plugins under test.
pub fn finetune<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_remove("FINETUNE_PLUGIN_PATH")
        .env_remove("FINETUNE_LOG")
        .env_remove("FINETUNE_BACKEND")
        .env_remove("FINETUNE_PROBE_TIMEOUT")
        .env("FINETUNE_CACHE_DIR", cache());
    command
}

/// What a command printed, as text; fails the test with all of it if the command failed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?} failed: {}", shown(&output));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// The message of a command that has to fail with exit code 1.
pub fn fail(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{command:?} was to fail: {}", shown(&output));
    String::from_utf8(output.stderr).expect("stderr is UTF-8")
}

fn shown(output: &Output) -> String {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{}\n--- stdout\n{out}\n--- stderr\n{err}", output.status)
}

/// One JSON object a line.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line:?}")))
        .collect()
}

/// The events of one kind.
pub fn events<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == kind).collect()
}

/// The number under a key.
#[track_caller]
pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key:?} in {value}"))
}

/// Fails the test unless two numbers agree within a relative tolerance.
#[track_caller]
pub fn assert_close(got: f64, want: f64, relative: f64, what: &str) {
    let difference = (got - want).abs() / want.abs().max(f64::MIN_POSITIVE);
    assert!(
        difference <= relative || got == want,
        "{what}: {got}, expected {want} within {relative}: {difference:e}"
    );
}

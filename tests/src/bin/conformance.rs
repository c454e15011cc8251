//! The conformance suite on one device, op by op, each in a process of its own: where a device breaks down, the op is
//! known.
//!
//!     conformance PLUGINS BACKEND [OP [CASE]]
//!
//! With an op, its cases (or those with CASE in their name) run here, each named before it runs.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use finetune_host::plugins::{Catalog, Folders, PROBE_TIMEOUT, Prober, leave};
use finetune_plugin_api::conformance::{cases, check_case};
use finetune_tests::loaded::Loaded;

/// Processes at a time.
const PROCESSES: usize = 8;

fn main() -> ! {
    leave(run())
}

fn run() -> u8 {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [plugins, backend] => all(plugins, backend),
        [plugins, backend, op] => one(plugins, backend, op, ""),
        [plugins, backend, op, case] => one(plugins, backend, op, case),
        _ => {
            eprintln!("usage: conformance PLUGINS BACKEND [OP [CASE]]");
            2
        }
    }
}

/// The op in front of a case's name.
fn family(name: &str) -> &str {
    name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(name)
}

fn all(plugins: &str, backend: &str) -> u8 {
    let mut ops: Vec<String> = cases().iter().map(|case| family(&case.name).to_owned()).collect();
    ops.sort();
    ops.dedup();
    let own = std::env::current_exe().expect("a program knows where it is");
    let (next, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(op) = ops.get(next.fetch_add(1, Ordering::Relaxed)) {
            let run = Command::new(&own).args([plugins, backend, op]).stderr(Stdio::piped()).output();
            let run = run.expect("this program starts again");
            let out = String::from_utf8_lossy(&run.stdout).into_owned();
            let mut lines = out.lines().rev();
            if run.status.success() {
                println!("{op}: {}", lines.next().unwrap_or_default());
                continue;
            }
            let errors = String::from_utf8_lossy(&run.stderr).into_owned();
            let failed: Vec<&str> = out.lines().filter(|line| line.starts_with("FAILED")).take(5).collect();
            let last = lines.next().unwrap_or_default();
            let said: Vec<&str> = errors.lines().rev().take(3).collect();
            println!("{op}: {}; last: {last}; {failed:?}; {said:?}", run.status);
            bad.lock().expect("no thread panics").push(op.clone());
        }
    };
    thread::scope(|scope| (0..PROCESSES).for_each(|_| drop(scope.spawn(work))));
    let bad = bad.into_inner().expect("no thread panics");
    println!("{} ops, {} fail: {bad:?}", ops.len(), bad.len());
    u8::from(!bad.is_empty())
}

fn one(plugins: &str, backend: &str, op: &str, part: &str) -> u8 {
    let prober = Prober::with(finetune_tests::binary(), None, PROBE_TIMEOUT);
    let catalog =
        Catalog::build(&Folders::given(&[plugins.into()]), &prober).expect("the folder can be read");
    let choice = catalog.choose(backend).unwrap_or_else(|error| panic!("{error}"));
    let mut device = Loaded::open(&choice);
    let (mut passed, mut failed) = (0, 0);
    for case in cases().iter().filter(|case| family(&case.name) == op && case.name.contains(part)) {
        println!("{}", case.name);
        match check_case(case, &mut device) {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                println!("FAILED {}: {error}", case.name);
            }
        }
    }
    println!("{passed} cases passed, {failed} failed");
    u8::from(failed > 0 || passed == 0)
}

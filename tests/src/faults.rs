//! Faults of the file system, made up by a library that comes between the program and the system: tests/faults/shim.c.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What happens at a change of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed before it.
    Kill,
    /// The power goes before it: what was not synced is not there.
    Power,
    /// The same, and renames of which the folder was not synced have not happened.
    PowerWithoutRenames,
    /// The disk is full from there on.
    Full,
    /// Nothing can be changed from there on.
    ReadOnly,
    /// Every change fails from there on.
    Failing,
}

impl Fault {
    fn word(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Power => "power",
            Fault::PowerWithoutRenames => "undo",
            Fault::Full => "full",
            Fault::ReadOnly => "readonly",
            Fault::Failing => "io",
        }
    }

    /// What the system says of it.
    pub fn words(self) -> &'static str {
        match self {
            Fault::Full => "No space left on device",
            Fault::ReadOnly => "Read-only file system",
            Fault::Failing => "Input/output error",
            Fault::Kill | Fault::Power | Fault::PowerWithoutRenames => "",
        }
    }
}

/// Has the program meet a fault at the `at`th change in the folder `under`, or none if `at` is 0. `beside` is a folder
/// for what this needs itself; gives the file that gets a line for every change.
pub fn inject(command: &mut Command, fault: Fault, at: usize, under: &Path, beside: &Path) -> PathBuf {
    let above = under.parent().expect("a folder above").canonicalize().expect("it is there");
    let [log, mark] = ["changes", "ended"].map(|name| beside.join(name));
    for file in [&log, &mark] {
        let _ = std::fs::remove_file(file);
    }
    command.env("LD_PRELOAD", shim()).env("CUT_UNDER", above.join(under.file_name().expect("a name")));
    command.env("CUT_AT", at.to_string()).env("CUT_HOW", fault.word());
    command.env("CUT_LOG", &log).env("CUT_MARK", mark);
    // The environment is part of what the program's cache goes by.
    command.env("FINETUNE_CACHE_DIR", folder().join("cache"));
    log
}

/// What is kept from one test to the next.
fn folder() -> PathBuf {
    let folder = crate::binary().canonicalize().expect("it is built").with_file_name("test-faults");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// The library, built once a test program.
fn shim() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/shim.c");
        let library = folder().join("libfaults.so");
        let aside = folder().join(format!("libfaults-{}.so", std::process::id()));
        let mut cc = Command::new("cc");
        let output = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&aside).arg(source).output();
        let output = output.expect("there is a C compiler, cc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&aside, &library).expect("in place");
        library
    })
}

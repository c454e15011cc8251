//! A plugin that runs programs through the reference interpreter and misbehaves at a point that it is told.
//!
//! It is built once. What a copy of it does stands in the copy itself: the tests' helper (`finetune_tests::misbehaving`)
//! writes another name into the manifest and other words into `BEHAVIOUR`, so that every copy is a file of its own,
//! with a hash of its own, that needs nothing beside it. README.md lists the words.
// It hurts the process that it is in by calls of the C library, and places code where the loader runs it.
#![allow(unsafe_code)]

mod act;
mod device;
mod script;

use finetune_plugin_api::export::{DeviceDescription, Error, JsonObject, Options, Plugin};
use finetune_plugin_api::program::DType;

use device::Interpreter;
use script::{Point, Script};

/// The length of the mark before it.
const MARK: usize = b"finetune-misbehaving:".len();

/// Misbehaviour, written over by the tests. Zeros after the mark: none.
#[used]
static BEHAVIOUR: [u8; 512] = {
    let mut bytes = [0; 512];
    let mark = b"finetune-misbehaving:";
    let mut i = 0;
    while i < mark.len() {
        bytes[i] = mark[i];
        i += 1;
    }
    bytes
};

finetune_plugin_api::export_plugin! {
    plugin: Misbehaving,
    name: "misbehaving-name-to-be-written-over",
    vendor: "the finetune project",
    description: "Runs programs through the reference interpreter and misbehaves as its file says; for tests only. \
                  This sentence is long so that a test has room to write other things into the manifest.",
}

/// What the system's loader runs when it loads the library, before anything is asked of it.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    // There is no one to whom an error could be returned here.
    let _ = Script::of_this_file().at(Point::Load, 0);
}

struct Misbehaving;

impl Plugin for Misbehaving {
    type Device = Interpreter;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        let script = Script::of_this_file();
        script.at(Point::Probe, 0)?;
        let memory = script.memory().unwrap_or(8 << 30);
        let device = DeviceDescription {
            name: script.word("name").unwrap_or("reference interpreter").replace("ESC", "\u{1b}"),
            kind: script.word("device").unwrap_or("cpu").into(),
            memory_total: memory,
            memory_available: memory,
            unified: true,
            dtypes: DType::ALL.to_vec(),
            details: JsonObject::new(),
        };
        let count = script.word("devices").and_then(|count| count.parse().ok()).unwrap_or(1);
        Ok(vec![device; count])
    }

    fn open(_index: u32, _options: &Options) -> Result<Interpreter, Error> {
        let script = Script::of_this_file();
        script.at(Point::Open, 0)?;
        Ok(Interpreter::new(script))
    }
}

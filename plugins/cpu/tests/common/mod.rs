//! The device, open, and how programs run on it.
#![allow(dead_code, unused_imports)] // each test binary uses its part

use finetune_cpu::{Cpu, CpuDevice};
pub use finetune_plugin_api::conformance::{run_bytes, run_tensors as run};
use finetune_plugin_api::export::{JsonObject, Options, Plugin};

pub fn open(threads: usize) -> CpuDevice {
    let mut options = JsonObject::new();
    options.insert("threads".into(), threads.into());
    Cpu::open(0, &Options::from(options)).expect("the processor is always there")
}

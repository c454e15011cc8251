//! The device, open, and how programs run on it.
#![allow(dead_code, unused_imports)] // each test binary uses its part

use finetune_mlx::{Mlx, MlxDevice};
pub use finetune_plugin_api::conformance::{run_bytes, run_tensors as run};
use finetune_plugin_api::export::{Options, Plugin};

pub fn open() -> MlxDevice {
    Mlx::open(0, &Options::default()).expect("where there is no GPU there is the processor")
}

//! The plugin's ops against the cases that every plugin must pass.
#![cfg(feature = "mlx")]

mod common;

use finetune_mlx::MlxDevice;
use finetune_plugin_api::conformance::{self, Runner};
use finetune_plugin_api::export::Device;
use finetune_plugin_api::program::{self, DType, NativeOps, Program};
use finetune_plugin_api::reference::Tensor;

struct Native(MlxDevice);

impl Runner for Native {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let ops = NativeOps::of(&self.0.ops());
        let program = program::lower(program, &|node| ops.has(node)).map_err(|error| error.to_string())?;
        common::run(&mut self.0, &program, args)
    }
}

/// Every op, composites that the device has as they are, on the first device: each element type, odd sizes, edges of its row.
#[test]
fn every_case_passes() {
    let report = conformance::check(&mut Native(common::open()));
    assert!(report.is_passed(), "{report}");
    println!("{report}");
}

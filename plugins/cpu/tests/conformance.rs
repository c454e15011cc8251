//! The plugin's kernels against the cases that every plugin must pass.

mod common;

use finetune_cpu::CpuDevice;
use finetune_plugin_api::conformance::{self, Runner};
use finetune_plugin_api::program::{DType, Program};
use finetune_plugin_api::reference::Tensor;

struct Native(CpuDevice);

impl Runner for Native {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        common::run(&mut self.0, program, args)
    }
}

/// Every op, composites as they are, on several threads: each element type, odd sizes, edges of its row.
#[test]
fn every_case_passes() {
    let report = conformance::check(&mut Native(common::open(3)));
    assert!(report.is_passed(), "{report}");
    println!("{report}");
}

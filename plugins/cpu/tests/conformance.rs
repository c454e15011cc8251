//! The plugin's kernels against the cases that every plugin must pass.

mod common;

use finetune_plugin_api::conformance;
use finetune_plugin_api::program::DType;

/// Every op, composites as they are, on several threads: each element type, odd sizes, edges of its row.
#[test]
fn every_case_passes() {
    let report = conformance::check_open(common::open(3), &DType::ALL);
    assert!(report.is_passed(), "{report}");
    println!("{report}");
}

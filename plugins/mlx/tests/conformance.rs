//! The plugin's ops against the cases that every plugin must pass.
#![cfg(feature = "mlx")]

mod common;

use finetune_plugin_api::conformance;
use finetune_plugin_api::program::DType;

/// Every op, composites that the device has as they are, on the first device: each element type, odd sizes, edges of its row.
#[test]
fn every_case_passes() {
    let report = conformance::check_open(common::open(), &DType::ALL);
    assert!(report.is_passed(), "{report}");
    println!("{report}");
}

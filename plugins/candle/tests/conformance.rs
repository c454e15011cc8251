//! The plugin's ops against the cases that every plugin must pass, on the device that it is built for.

use finetune_candle::Candle;
use finetune_plugin_api::conformance::check_device;

/// Every op, composites that the device has as they are: each element type, odd sizes, edges of its row.
#[test]
fn every_case_passes() {
    let report = check_device::<Candle>(0).unwrap();
    assert!(report.is_passed(), "{report}");
    println!("{report}");
}

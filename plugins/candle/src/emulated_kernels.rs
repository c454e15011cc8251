//! The GPUs' part of the plugin, on a machine without one: the very source of the kernels, compiled as C++, under the
//! very code that launches them, against the cases that every plugin must pass.

use finetune_plugin_api::conformance::check_device;
use finetune_plugin_api::export::{DeviceDescription, Error, Options, Plugin};

use crate::kernel::emulated;
use crate::{Candle, CandleDevice};

/// The plugin with its GPU emulated, a block's threads running in that order.
struct Emulated<const ORDER: u32>;

impl<const ORDER: u32> Plugin for Emulated<ORDER> {
    type Device = CandleDevice;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        Candle::probe()
    }

    fn open(index: u32, options: &Options) -> Result<CandleDevice, Error> {
        emulated::switch_on(ORDER);
        Candle::open(index, options)
    }
}

/// Each kernel with every element type, size and edge of the ops that use it. It may touch nothing but its operands, its
/// threads must meet at every barrier, and it must not matter in which order they run between barriers.
#[test]
fn emulated_kernels_pass_every_case() {
    let forwards = check_device::<Emulated<0>>(0).unwrap();
    assert!(forwards.is_passed(), "threads in order: {forwards}");
    let backwards = check_device::<Emulated<1>>(0).unwrap();
    assert!(backwards.is_passed(), "threads backwards: {backwards}");
    let mixed = check_device::<Emulated<20>>(0).unwrap();
    assert!(mixed.is_passed(), "threads mixed: {mixed}");
    println!("{forwards}; {} launches", emulated::launches());
}

//! The candle back end: one source, built for the processor (`candle-cpu`), CUDA (`candle-cuda`, feature `cuda`) or
//! Metal (`candle-metal`, feature `metal`, on macOS).
//!
//! Programs run op by op over candle's tensors, without its autograd: a program carries its gradients itself. The
//! schedule says which ops to run and when a value is let go, so that its memory is free for the next. Candle's own
//! kernels do what they do right; `kernel` has those that it lacks.
//!
//! The build for the processor shows that the code is right wherever there is no such GPU; `cpu` is the faster one.

mod compile;
mod device;
mod fuse;
mod host;
mod kernel;
mod ops;
mod profile;

#[cfg(all(test, target_os = "linux"))]
mod emulated_kernels;

pub use compile::Compiled;
pub use device::{Buffer, CandleDevice};

use finetune_plugin_api::export::{DeviceDescription, Error, Options, Plugin};

/// The plugin.
pub struct Candle;

impl Plugin for Candle {
    type Device = CandleDevice;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        device::probe()
    }

    fn open(index: u32, _: &Options) -> Result<CandleDevice, Error> {
        CandleDevice::open(index)
    }
}

#[cfg(all(feature = "cuda", feature = "metal"))]
compile_error!("the candle plugin is built for one kind of device: CUDA or Metal");

#[cfg(all(feature = "metal", not(target_os = "macos")))]
compile_error!("the feature `metal` of the candle plugin is for macOS");

#[cfg(not(any(feature = "cuda", feature = "metal")))]
finetune_plugin_api::export_plugin! {
    plugin: Candle,
    name: "candle-cpu",
    vendor: "finetune",
    description: "Trains on the processor through candle",
}

#[cfg(feature = "cuda")]
finetune_plugin_api::export_plugin! {
    plugin: Candle,
    name: "candle-cuda",
    vendor: "finetune",
    description: "Trains on NVIDIA GPUs through candle",
    thread: owned,
}

#[cfg(feature = "metal")]
finetune_plugin_api::export_plugin! {
    plugin: Candle,
    name: "candle-metal",
    vendor: "finetune",
    description: "Trains on Apple's GPUs through candle",
    thread: owned,
}

//! The MLX back end: Metal on Apple silicon, CUDA or the processor on Linux.
//!
//! A program becomes one MLX closure (`compile`), traced and fused once on a GPU, which every run replays: the
//! arrays of state are let go before the graph is evaluated, so that MLX writes the new ones where they lay.
//! All work is on the one thread that opened the device, evaluated while the host goes on.
//!
//! On the processor the closure is replayed without MLX's own compiler, which would call a C++ compiler for every
//! fused kernel; and everything is computed in f32, because MLX's products of shorter types are slow there.
//!
//! Options of `open`: `compile`, whether MLX compiles the closure (by default what the environment variable
//! `FINETUNE_MLX_COMPILE` says, 1 or 0, else on a GPU only). The environment variable `FINETUNE_MLX_TF32=1` allows TF32 for products of f32, which are of f32 without it.
#![cfg(feature = "mlx")]

#[cfg(target_os = "linux")]
mod blas;
mod compile;
mod device;
mod facts;
mod mlx;
mod ops;
mod probe;
mod sums;
mod waypoints;

pub use compile::Compiled;
pub use device::{Buffer, MlxDevice};

use finetune_plugin_api::export::{DeviceDescription, Error, Options, Plugin};

/// The plugin.
pub struct Mlx;

impl Plugin for Mlx {
    type Device = MlxDevice;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        mlx::prepare()?;
        probe::devices().iter().map(probe::Found::describe).collect()
    }

    fn open(index: u32, options: &Options) -> Result<MlxDevice, Error> {
        mlx::prepare()?;
        let devices = probe::devices();
        let count = devices.len();
        let found = devices.into_iter().nth(index as usize);
        let found = found.ok_or_else(|| Error::no_such_device(index, count))?;
        let asked = mlx::switch("FINETUNE_MLX_COMPILE")?;
        let compile = options.get::<bool>("compile")?.or(asked).unwrap_or(found.gpu);
        MlxDevice::new(found, compile)
    }
}

finetune_plugin_api::export_plugin! {
    plugin: Mlx,
    name: "mlx",
    vendor: "finetune",
    description: "Trains with MLX: Metal on Apple silicon, CUDA or the processor on Linux",
    thread: owned,
}

//! The native CPU back end: `gemm` for matrix products, rayon for threads, vector instructions chosen at run
//! time, f32 arithmetic on values stored as f32, bf16 or f16.
//!
//! A program is planned once ([`finetune_plugin_api::plan`]): every value gets its place in one arena, in an
//! output or in state, or is a view of another. A run is the list of its steps (`ops`), each parallel in
//! itself. Results depend on the inputs only: parallel parts are cut by shape, never by timing.
//!
//! Options of `open`: `threads`, how many threads compute (by default `RAYON_NUM_THREADS`, else as many as the
//! process may use).

mod compile;
mod device;
mod ops;
mod simd;
mod storage;

pub use device::{Buffer, Compiled, CpuDevice};

use finetune_plugin_api::export::{DeviceDescription, Error, Options, Plugin};
use finetune_plugin_api::machine::Machine;
use finetune_plugin_api::program::DType;

/// The plugin.
pub struct Cpu;

impl Plugin for Cpu {
    type Device = CpuDevice;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        let dtypes = [DType::F32, DType::Bf16, DType::F16, DType::U32, DType::Bool];
        let mut found = Machine::new().description(&dtypes);
        found.details.insert("simd".into(), simd::level().into());
        found.details.insert("threads".into(), device::default_threads().into());
        Ok(vec![found])
    }

    fn open(index: u32, options: &Options) -> Result<CpuDevice, Error> {
        if index != 0 {
            return Err(Error::no_such_device(index, 1));
        }
        let threads = match options.get::<usize>("threads")? {
            Some(0) => {
                return Err(Error::invalid_argument("option threads is 0; at least 1 is expected"));
            }
            Some(threads) => threads,
            None => device::default_threads(),
        };
        CpuDevice::new(threads)
    }
}

finetune_plugin_api::export_plugin! {
    plugin: Cpu,
    name: "cpu",
    vendor: "finetune",
    description: "Trains on the processor, with its vector instructions and all its cores",
}

//! The processor.

use candle_core::Device as Placed;
use finetune_plugin_api::export::{DeviceDescription, Error, MemoryInfo};
use finetune_plugin_api::machine::Machine;

use super::DTYPES;

/// What is asked for memory.
pub struct Figures(Machine);

pub fn probe() -> Result<Vec<DeviceDescription>, Error> {
    Ok(vec![Machine::new().description(&DTYPES)])
}

pub fn open(index: u32) -> Result<(Placed, Figures), Error> {
    if index != 0 {
        return Err(Error::no_such_device(index, 1));
    }
    Ok((Placed::Cpu, Figures(Machine::new())))
}

/// Candle allocates main memory with `vec!`, which ends the process where there is none: asked before, it is an
/// error.
pub fn has_room(_: &Placed, bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Runs what uses the device.
pub fn scoped<R>(work: impl FnOnce() -> R) -> R {
    work()
}

impl Figures {
    pub fn memory(&mut self, _: &Placed, counted: MemoryInfo) -> MemoryInfo {
        let machine = self.0.memory();
        MemoryInfo { total: machine.total, available: machine.available, ..counted }
    }
}

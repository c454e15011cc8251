//! What the system says of its processor and main memory, for back ends that compute there (feature `machine`).

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

use crate::export::{DeviceDescription, JsonObject};
use crate::program::DType;

/// The system, asked again at every call; it says nothing where it cannot be asked.
pub struct Machine(Option<System>);

/// Bytes of main memory; 0 where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MainMemory {
    /// All of it.
    pub total: u64,
    /// What could be allocated now.
    pub available: u64,
}

impl Machine {
    /// The machine that this runs on.
    #[allow(clippy::new_without_default)] // there is one machine, not a default one
    pub fn new() -> Machine {
        Machine(System::new().ok())
    }

    /// Its main memory now.
    pub fn memory(&mut self) -> MainMemory {
        let Some(system) = &mut self.0 else { return MainMemory::default() };
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        MainMemory { total: system.total_memory(), available: system.available_memory() }
    }

    /// The processor as a device that computes with these types: its name, its memory now.
    pub fn description(&mut self, dtypes: &[DType]) -> DeviceDescription {
        let memory = self.memory();
        DeviceDescription {
            name: self.processor().unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH)),
            kind: "cpu".into(),
            memory_total: memory.total,
            memory_available: memory.available,
            unified: true,
            dtypes: dtypes.to_vec(),
            details: JsonObject::new(),
        }
    }

    /// The processor's name, as its maker gives it.
    pub fn processor(&mut self) -> Option<String> {
        let system = self.0.as_mut()?;
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        let name = system.cpus().first()?.brand().trim().to_string();
        (!name.is_empty()).then_some(name)
    }
}

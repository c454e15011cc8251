//! Which devices MLX can use here.

use finetune_plugin_api::export::{DeviceDescription, JsonObject};
use finetune_plugin_api::machine::{Machine, MainMemory};
use finetune_plugin_api::program::DType;

use crate::mlx::{self, DeviceInfo};

/// A device.
pub struct Found {
    pub gpu: bool,
    /// MLX's own index among those of the kind.
    pub index: i32,
}

/// The GPUs, or else the processor: MLX's work on the processor is no use where there is a GPU.
pub fn devices() -> Vec<Found> {
    let gpus = (0..mlx::device_count(true)).filter(|&index| mlx::is_available(true, index));
    let found: Vec<Found> = gpus.map(|index| Found { gpu: true, index }).collect();
    if found.is_empty() { vec![Found { gpu: false, index: 0 }] } else { found }
}

impl Found {
    pub fn describe(&self) -> DeviceDescription {
        let info = self.gpu.then(|| DeviceInfo::of(true, self.index).ok()).flatten();
        let mut details = JsonObject::new();
        details.insert("mlx".into(), mlx::version().into());
        if let Some(info) = &info {
            for (key, name) in
                [(c"architecture", "architecture"), (c"compute_capability", "compute_capability")]
            {
                if let Some(value) = info.text(key) {
                    details.insert(name.into(), value.into());
                }
            }
            if let Some(bytes) = info.size(c"max_recommended_working_set_size") {
                details.insert("working_set_bytes".into(), bytes.into());
            }
        }
        let memory = self.memory();
        DeviceDescription {
            name: self.name(info.as_ref()),
            kind: self.kind().into(),
            memory_total: memory.total,
            memory_available: memory.available,
            unified: self.unified(),
            dtypes: vec![DType::F32, DType::Bf16, DType::F16, DType::U32, DType::Bool],
            details,
        }
    }

    fn kind(&self) -> &'static str {
        match (self.gpu, cfg!(target_os = "macos")) {
            (false, _) => "cpu",
            (true, true) => "metal",
            (true, false) => "cuda",
        }
    }

    fn unified(&self) -> bool {
        !self.gpu || cfg!(target_os = "macos")
    }

    /// On a Mac the chip's name (`Apple M3 Max`), which is the processor's and the GPU's.
    fn name(&self, info: Option<&DeviceInfo>) -> String {
        let gpu = info.and_then(|info| info.text(c"device_name"));
        if self.unified() {
            return Machine::new().processor().or(gpu).unwrap_or_else(|| "processor".into());
        }
        gpu.unwrap_or_else(|| format!("GPU {}", self.index))
    }

    /// What may be used, and what of it is free.
    pub fn memory(&self) -> MainMemory {
        let main = Machine::new().memory();
        let info = self.gpu.then(|| DeviceInfo::of(true, self.index).ok()).flatten();
        let Some(info) = info else { return main };
        if self.unified() {
            let total = info.size(c"max_recommended_working_set_size").unwrap_or(main.total);
            return MainMemory { total, available: total.min(main.available) };
        }
        let total = info.size(c"total_memory").or_else(|| info.size(c"memory_size")).unwrap_or(0);
        MainMemory { total, available: info.size(c"free_memory").unwrap_or(total) }
    }
}

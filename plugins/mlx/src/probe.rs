//! Which devices MLX can use here.

use std::ffi::CStr;

use finetune_plugin_api::export::{DeviceDescription, Error, JsonObject};
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
    /// # Errors
    /// MLX cannot say what the device is: something of its own is missing, or the driver.
    pub fn describe(&self) -> Result<DeviceDescription, Error> {
        let info = self.info()?;
        let mut details = JsonObject::new();
        details.insert("mlx".into(), mlx::version().into());
        if let Some(info) = &info {
            let text = |name: &CStr| info.text(name);
            let family = text(c"architecture").as_deref().and_then(metal_family);
            let texts = [
                ("architecture", text(c"architecture")),
                ("compute_capability", text(c"compute_capability")),
                ("metal_family", family.map(str::to_owned)),
            ];
            details.extend(texts.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
            let working_set = info.size(c"max_recommended_working_set_size");
            details.extend(working_set.map(|bytes| ("working_set_bytes".into(), bytes.into())));
        }
        let memory = self.memory()?;
        Ok(DeviceDescription {
            name: self.name(info.as_ref()),
            kind: self.kind().into(),
            memory_total: memory.total,
            memory_available: memory.available,
            unified: self.unified(),
            dtypes: vec![DType::F32, DType::Bf16, DType::F16, DType::U32, DType::Bool],
            details,
        })
    }

    /// What MLX knows of a GPU.
    fn info(&self) -> Result<Option<DeviceInfo>, Error> {
        self.gpu.then(|| DeviceInfo::of(true, self.index)).transpose()
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
    pub fn memory(&self) -> Result<MainMemory, Error> {
        let main = Machine::new().memory();
        let Some(info) = self.info()? else { return Ok(main) };
        if self.unified() {
            let total = info.size(c"max_recommended_working_set_size").unwrap_or(main.total);
            return Ok(MainMemory { total, available: total.min(main.available) });
        }
        let total = info.size(c"total_memory").or_else(|| info.size(c"memory_size")).unwrap_or(0);
        Ok(MainMemory { total, available: info.size(c"free_memory").unwrap_or(total) })
    }
}

/// The newest family of Apple's GPUs that a chip belongs to, by MLX's name of its architecture (`applegpu_g13s` is an
/// M1 Max); from Apple's Metal Feature Set Tables.
fn metal_family(architecture: &str) -> Option<&'static str> {
    let generation = architecture.strip_prefix("applegpu_g")?.get(..2)?;
    Some(match generation {
        "13" => "apple7",
        "14" => "apple8",
        "15" | "16" => "apple9",
        "17" => "apple10",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_have_the_family_of_their_generation() {
        assert_eq!(metal_family("applegpu_g13s"), Some("apple7"));
        assert_eq!(metal_family("applegpu_g16p"), Some("apple9"));
        assert_eq!([metal_family("applegpu_g9"), metal_family("sm_90a")], [None, None]);
    }
}

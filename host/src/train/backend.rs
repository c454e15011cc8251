//! A device, as a run has it.

use finetune_plugin_api::program::DType;

use crate::plugins::Device;
use crate::precision::Precision;

use super::config::PrecisionChoice;
use super::error::TrainError;

/// An open device and how it is called.
pub struct Backend {
    /// The device.
    pub device: Device,
    /// The plugin's name.
    pub name: String,
    /// The device's name.
    pub device_name: String,
    /// `cpu`, `gpu`, ...
    pub kind: String,
    /// Element types that the device has.
    pub dtypes: Vec<String>,
    /// Whether its memory is the machine's.
    pub unified: bool,
}

impl Backend {
    /// The precision that is meant.
    pub fn precision(&self, choice: PrecisionChoice) -> Result<Precision, TrainError> {
        let has_bf16 = self.dtypes.iter().any(|name| name == DType::Bf16.name());
        match choice {
            PrecisionChoice::F32 => Ok(Precision::F32),
            PrecisionChoice::Bf16 if has_bf16 => Ok(Precision::Bf16),
            PrecisionChoice::Bf16 => Err(TrainError::Settings(format!(
                "--precision bf16: {} ({}) has no bf16; take --precision f32 or another --backend",
                self.name, self.device_name
            ))),
            PrecisionChoice::Auto if has_bf16 && self.kind == "gpu" => Ok(Precision::Bf16),
            PrecisionChoice::Auto => Ok(Precision::F32),
        }
    }
}

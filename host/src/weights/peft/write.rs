//! Writing an adapter's folder.

use std::collections::BTreeSet;
use std::path::Path;

use super::TENSOR_PREFIX;
use super::config::PeftConfig;
use super::target::TargetSpec;
use crate::weights::atomic::AtomicDir;
use crate::weights::folder::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::weights::save::write_json;
use crate::weights::{SafetensorsWriter, TensorSpec, WeightDType, WeightsError};

/// The sizes of one adapted module: A is [rank, in_features], B is [out_features, rank].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraShape {
    /// The module's path in the model: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    pub rank: usize,
    pub in_features: usize,
    pub out_features: usize,
}

/// An adapter's files in the making, inside a folder that is there. Holds no tensor.
#[derive(Debug)]
pub struct AdapterWriter {
    weights: SafetensorsWriter,
}

impl AdapterWriter {
    /// Writes `config` into the folder `dir` and begins the weights of `modules`, in f32.
    ///
    /// [`TargetSpec::AllLinear`] is written as the names it came to, as PEFT itself does, so that the adapter
    /// means the same for whoever loads it.
    ///
    /// # Errors
    /// No modules, a module that the config does not name or gives another rank, or files that cannot be made.
    pub fn create(dir: &Path, config: &PeftConfig, modules: &[LoraShape]) -> Result<Self, WeightsError> {
        let path = dir.join(ADAPTER_WEIGHTS);
        let refuse = |problem: String| WeightsError::Write { path: path.clone(), problem };
        if modules.is_empty() {
            return Err(refuse("it would hold no module".into()));
        }
        let mut specs = Vec::with_capacity(2 * modules.len());
        for LoraShape { module, rank, in_features, out_features } in modules {
            let expected = config.rank_of(module)?;
            if *rank != expected {
                return Err(refuse(format!(
                    "module {module} has rank {rank}, but the config says {expected}"
                )));
            }
            if !config.matches(module)? {
                return Err(refuse(format!("module {module} is not among the config's targets")));
            }
            specs.push(TensorSpec::new(tensor_name(module, 'A'), WeightDType::F32, [*rank, *in_features]));
            specs.push(TensorSpec::new(tensor_name(module, 'B'), WeightDType::F32, [*out_features, *rank]));
        }
        let config = PeftConfig { targets: resolve_targets(&config.targets, modules), ..config.clone() };
        write_json(&dir.join(ADAPTER_CONFIG), &config.to_json())?;
        Ok(Self { weights: SafetensorsWriter::create(&path, &specs, &[("format", "pt")])? })
    }

    /// Appends to A of `module`: f32, row-major, little-endian.
    ///
    /// # Errors
    /// An unknown module, too many bytes, or a failing disk.
    pub fn write_a(&mut self, module: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        self.weights.write(&tensor_name(module, 'A'), bytes)
    }

    /// Appends to B of `module`: f32, row-major, little-endian.
    ///
    /// # Errors
    /// An unknown module, too many bytes, or a failing disk.
    pub fn write_b(&mut self, module: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        self.weights.write(&tensor_name(module, 'B'), bytes)
    }

    /// Completes the weights.
    ///
    /// # Errors
    /// A tensor lacks bytes, or the disk fails.
    pub fn finish(self) -> Result<(), WeightsError> {
        self.weights.finish()
    }
}

/// Writes a whole adapter to the folder `dir`, which appears complete or not at all and replaces one that is
/// there. `tensors` gives each module's path with the f32 bytes of A and B; it is asked for one at a time.
///
/// # Errors
/// As [`AdapterWriter`]'s, and whatever error `tensors` gives.
pub fn save_adapter<E, Bytes>(
    dir: &Path,
    config: &PeftConfig,
    modules: &[LoraShape],
    tensors: impl IntoIterator<Item = Result<(String, Bytes, Bytes), E>>,
) -> Result<(), E>
where
    E: From<WeightsError>,
    Bytes: AsRef<[u8]>,
{
    let folder = AtomicDir::create(dir)?;
    let mut writer = AdapterWriter::create(folder.path(), config, modules)?;
    for item in tensors {
        let (module, a, b) = item?;
        writer.write_a(&module, a.as_ref())?;
        writer.write_b(&module, b.as_ref())?;
    }
    writer.finish()?;
    folder.commit()?;
    Ok(())
}

fn tensor_name(module: &str, half: char) -> String {
    format!("{TENSOR_PREFIX}{module}.lora_{half}.weight")
}

fn resolve_targets(targets: &TargetSpec, modules: &[LoraShape]) -> TargetSpec {
    match targets {
        TargetSpec::AllLinear => {
            let last = |shape: &LoraShape| shape.module.rsplit('.').next().unwrap_or_default().to_string();
            TargetSpec::Names(modules.iter().map(last).collect::<BTreeSet<_>>().into_iter().collect())
        }
        other => other.clone(),
    }
}

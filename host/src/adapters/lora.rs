//! LoRA (Hu et al. 2021): y = W x + scale * B A dropout(x), on any linear layer.

use std::collections::BTreeMap;

use super::packing::Packing;
use crate::models::{Architecture, Init, LinearSpec, ModelError};
use crate::weights::peft::{LoraShape, PeftConfig, TargetSpec};

/// The adapters on one model.
#[derive(Clone, Debug)]
pub struct Lora {
    /// What is written into `adapter_config.json`.
    pub config: PeftConfig,
    /// The probability that an input element is dropped in training.
    pub dropout: f64,
    modules: Vec<LoraModule>,
    by_path: BTreeMap<String, usize>,
    packing: Packing,
}

/// The adapter on one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// The layer's module path.
    pub path: String,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// Input channels of the layer.
    pub inputs: usize,
    /// Output channels of the layer.
    pub outputs: usize,
    /// The factor on B A x.
    pub scale: f64,
}

impl LoraModule {
    /// The name of A as a trained tensor.
    pub fn a_name(&self) -> String {
        format!("{}.lora_A.weight", self.path)
    }

    /// The name of B as a trained tensor.
    pub fn b_name(&self) -> String {
        format!("{}.lora_B.weight", self.path)
    }

    /// [rank, inputs].
    pub fn a_shape(&self) -> [usize; 2] {
        [self.rank, self.inputs]
    }

    /// [outputs, rank].
    pub fn b_shape(&self) -> [usize; 2] {
        [self.outputs, self.rank]
    }

    /// Names and shapes of A and B.
    pub fn tensors(&self) -> [(String, Vec<usize>); 2] {
        [(self.a_name(), self.a_shape().to_vec()), (self.b_name(), self.b_shape().to_vec())]
    }

    /// How A begins: the uniform distribution that PEFT takes, so that B A x = 0 at first through B alone.
    pub fn a_init(&self) -> Init {
        Init::Uniform { bound: 1.0 / (self.inputs as f64).sqrt() }
    }

    /// How B begins: zeros, so that the model begins as it is.
    pub fn b_init(&self) -> Init {
        Init::Zeros
    }
}

impl Lora {
    /// Puts adapters on the layers of a model that a config names.
    pub fn new(model: &dyn Architecture, mut config: PeftConfig) -> Result<Lora, ModelError> {
        let linears = model.linears();
        check_names(&config.targets, &linears)?;
        config.fan_in_fan_out = linears.iter().any(|linear| linear.fan_in_fan_out);
        let mut modules = Vec::new();
        for linear in &linears {
            if let Some(module) = module(&config, linear)? {
                modules.push(module);
            }
        }
        if modules.is_empty() {
            return Err(ModelError::Targets(format!(
                "the adapter's targets name no linear layer of this model; it has: {}",
                endings(&linears).join(", ")
            )));
        }
        let by_path = modules.iter().enumerate().map(|(i, module)| (module.path.clone(), i)).collect();
        let packing = Packing::of(modules.iter().flat_map(|module| {
            let [a, b] = module.tensors();
            [(a.0, a.1, 1.0), (b.0, b.1, module.scale)]
        }));
        Ok(Lora { dropout: config.dropout, config, modules, by_path, packing })
    }

    /// The adapted layers in the order of the forward pass.
    pub fn modules(&self) -> &[LoraModule] {
        &self.modules
    }

    /// How the adapters' tensors lie in the programs' state.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// The adapter on the layer at `path`.
    pub fn module(&self, path: &str) -> Option<&LoraModule> {
        self.by_path.get(path).map(|&i| &self.modules[i])
    }

    /// The modules as an adapter's file has them.
    pub fn shapes(&self) -> Vec<LoraShape> {
        let shape = |module: &LoraModule| LoraShape {
            module: module.path.clone(),
            rank: module.rank,
            in_features: module.inputs,
            out_features: module.outputs,
        };
        self.modules.iter().map(shape).collect()
    }
}

/// The targets that a person wrote: `all-linear`, `attention`, or names with commas between.
pub fn targets_from_text(text: &str, model: &dyn Architecture) -> Result<TargetSpec, ModelError> {
    match text {
        "all-linear" => Ok(TargetSpec::AllLinear),
        "attention" => {
            let attention: Vec<_> = model.linears().into_iter().filter(|linear| linear.attention).collect();
            Ok(TargetSpec::Names(endings(&attention)))
        }
        names => {
            let names = names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            Ok(TargetSpec::Names(names.collect()))
        }
    }
}

fn module(config: &PeftConfig, linear: &LinearSpec) -> Result<Option<LoraModule>, ModelError> {
    let pattern = |error: crate::weights::WeightsError| ModelError::Targets(error.to_string());
    let left_out = linear.head && config.targets == TargetSpec::AllLinear;
    if left_out || !config.matches(&linear.path).map_err(pattern)? {
        return Ok(None);
    }
    Ok(Some(LoraModule {
        path: linear.path.clone(),
        rank: config.rank_of(&linear.path).map_err(pattern)?,
        inputs: linear.inputs,
        outputs: linear.outputs,
        scale: config.scale_of(&linear.path).map_err(pattern)?,
    }))
}

fn check_names(targets: &TargetSpec, linears: &[LinearSpec]) -> Result<(), ModelError> {
    let TargetSpec::Names(names) = targets else { return Ok(()) };
    for name in names {
        let alone = TargetSpec::Names(vec![name.clone()]);
        if !linears.iter().any(|linear| alone.matches(&linear.path).unwrap_or(false)) {
            return Err(ModelError::Targets(format!(
                "the target {name:?} names no linear layer of this model; it has: {}",
                endings(linears).join(", ")
            )));
        }
    }
    Ok(())
}

/// The last two parts of each path, each once: `self_attn.q_proj`.
fn endings(linears: &[LinearSpec]) -> Vec<String> {
    let mut endings = Vec::new();
    for linear in linears {
        let parts: Vec<_> = linear.path.rsplitn(3, '.').collect();
        let ending = match parts[..] {
            [last, before, _] => format!("{before}.{last}"),
            _ => linear.path.clone(),
        };
        if !endings.contains(&ending) {
            endings.push(ending);
        }
    }
    endings
}

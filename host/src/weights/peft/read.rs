//! Reading an adapter's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::TENSOR_PREFIX;
use super::config::PeftConfig;
use crate::weights::folder::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, list_files, not_found, weights_refusal};
use crate::weights::{TensorView, Tensors, WeightsError};

/// The two matrices of one adapted module, mapped.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// A, [rank, in].
    pub a: TensorView,
    /// B, [out, rank].
    pub b: TensorView,
}

impl LoraPair {
    pub fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    pub fn in_features(&self) -> usize {
        self.a.shape()[1]
    }

    pub fn out_features(&self) -> usize {
        self.b.shape()[0]
    }
}

/// A LoRA adapter on disk. Every tensor in its file is accounted for; each has a dtype that can be converted.
#[derive(Debug)]
pub struct PeftAdapter {
    dir: PathBuf,
    config: PeftConfig,
    modules: BTreeMap<String, LoraPair>,
}

impl PeftAdapter {
    /// Opens the folder `dir`, which holds `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// A missing folder or file, a pickle in place of the safetensors file, a config that is refused (see
    /// [`PeftConfig::read`]), a tensor that is not one half of a LoRA pair, a pair with one half missing, or
    /// shapes that do not fit each other or the config's rank.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        if !dir.exists() {
            return Err(not_found(dir));
        }
        if !dir.is_dir() {
            return Err(WeightsError::unusable(
                dir,
                "is not a folder; give the folder that holds adapter_config.json",
            ));
        }
        let files = list_files(dir)?;
        let has = |name: &str| files.iter().any(|file| file == name);
        if !has(ADAPTER_CONFIG) {
            return Err(WeightsError::unusable(
                dir,
                "has no adapter_config.json, so it is not a PEFT adapter",
            ));
        }
        let config = PeftConfig::read(&dir.join(ADAPTER_CONFIG))?;
        if !has(ADAPTER_WEIGHTS) {
            return Err(weights_refusal(dir, &files)
                .unwrap_or_else(|| WeightsError::unusable(dir, "has no adapter_model.safetensors")));
        }
        let path = dir.join(ADAPTER_WEIGHTS);
        let modules = pair_up(&Tensors::open_file(&path)?, &path)?;
        for (module, pair) in &modules {
            check_pair(module, pair, &config).map_err(|problem| WeightsError::adapter(&path, problem))?;
            if !config.matches(module)? {
                let problem =
                    format!("it holds module {module}, which its config's target_modules do not name");
                return Err(WeightsError::adapter(&path, problem));
            }
            config.check_rank(module, pair.rank(), &path)?;
        }
        Ok(Self { dir: dir.to_path_buf(), config, modules })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// The adapted modules by their path in the model (`model.layers.0.self_attn.q_proj`); at least one.
    pub fn modules(&self) -> &BTreeMap<String, LoraPair> {
        &self.modules
    }
}

impl PeftConfig {
    /// Whether `rank` is what the config gives `module`.
    fn check_rank(&self, module: &str, rank: usize, path: &Path) -> Result<(), WeightsError> {
        let expected = self.rank_of(module)?;
        if rank == expected {
            return Ok(());
        }
        let problem = format!("module {module} has rank {rank}, but the config says {expected}");
        Err(WeightsError::adapter(path, problem))
    }
}

#[derive(Default)]
struct Halves {
    a: Option<TensorView>,
    b: Option<TensorView>,
}

fn pair_up(tensors: &Tensors, path: &Path) -> Result<BTreeMap<String, LoraPair>, WeightsError> {
    let problem = |problem: String| WeightsError::adapter(path, problem);
    let mut halves: BTreeMap<&str, Halves> = BTreeMap::new();
    for name in tensors.names() {
        let (module, is_a) = split_name(name).map_err(problem)?;
        let found = halves.entry(module).or_default();
        let half = if is_a { &mut found.a } else { &mut found.b };
        if half.is_some() {
            return Err(problem(format!("module {module} comes twice, the second time as {name}")));
        }
        *half = tensors.get(name);
    }
    if halves.is_empty() {
        return Err(problem("it holds no tensors".into()));
    }
    let pair = |(module, halves): (&str, Halves)| match halves {
        Halves { a: Some(a), b: Some(b) } => Ok((module.to_string(), LoraPair { a, b })),
        Halves { a: None, .. } => Err(problem(format!("module {module} has a lora_B but no lora_A"))),
        Halves { b: None, .. } => Err(problem(format!("module {module} has a lora_A but no lora_B"))),
    };
    halves.into_iter().map(pair).collect()
}

/// The module's path and whether it is A, from `base_model.model.PATH.lora_A.weight`, where an adapter's name
/// may come before `weight` (as in a state dict that was saved by hand).
fn split_name(name: &str) -> Result<(&str, bool), String> {
    let unknown = || format!("it holds {name}, which is not part of a plain LoRA adapter");
    for (part, feature) in [
        ("lora_embedding_", "an adapter on an embedding"),
        ("lora_magnitude_vector", "part of a DoRA adapter"),
        (".modules_to_save.", "a module that was saved whole"),
    ] {
        if name.contains(part) {
            return Err(format!("it holds {name}, {feature}, which is not supported yet"));
        }
    }
    let path = name.strip_prefix(TENSOR_PREFIX).ok_or_else(unknown)?;
    let path = path.strip_suffix(".weight").ok_or_else(unknown)?;
    for (marker, is_a) in [(".lora_A", true), (".lora_B", false)] {
        if let Some((module, adapter)) = path.rsplit_once(marker)
            && !module.is_empty()
            && (adapter.is_empty()
                || adapter.strip_prefix('.').is_some_and(|a| !a.is_empty() && !a.contains('.')))
        {
            return Ok((module, is_a));
        }
    }
    Err(unknown())
}

fn check_pair(module: &str, pair: &LoraPair, config: &PeftConfig) -> Result<(), String> {
    for tensor in [&pair.a, &pair.b] {
        if !tensor.encoding().is_convertible() {
            return Err(format!(
                "tensor {} holds {} values, not floating-point ones",
                tensor.name(),
                tensor.encoding()
            ));
        }
        if tensor.shape().len() != 2 || tensor.shape().contains(&0) {
            return Err(format!(
                "tensor {} has shape {:?}, which is no matrix",
                tensor.name(),
                tensor.shape()
            ));
        }
    }
    let (a, b) = (pair.a.shape(), pair.b.shape());
    if a[0] != b[1] {
        let rank = config.rank;
        return Err(format!(
            "module {module} has a lora_A of shape {a:?} and a lora_B of shape {b:?}, which do not share a rank \
             (the config's is {rank})"
        ));
    }
    Ok(())
}

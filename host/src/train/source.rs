//! Where the tensors of a run come from: the model's files or a seed, and the adapter's.

use std::ops::Range;
use std::path::Path;

use finetune_plugin_api::program::DType;
use serde_json::{Map, Value};

use crate::adapters::{Lora, targets_from_text};
use crate::data::{self, Batch};
use crate::models::{self, Architecture, Config, Init, ModelError, TensorSpec, fill};
use crate::weights::peft::{PeftAdapter, PeftConfig, TargetSpec};
use crate::weights::{
    ModelFiles, ModelFolder, TensorView, WeightDType, WeightsError, convert, copy_side_files,
};

use super::error::TrainError;

/// Elements that are converted or made at once: 16 MiB of f32.
const CHUNK: usize = 1 << 22;

/// A model as it was given: its architecture and its files.
pub struct Source {
    /// The files.
    pub files: ModelFiles,
    /// What its config describes.
    pub architecture: Box<dyn Architecture>,
    /// Seed of tensors that are in no file.
    pub seed: u64,
    tensors: std::collections::BTreeMap<String, TensorSpec>,
}

/// The elements of one tensor, in whatever form they are there.
pub enum Elements {
    /// In a mapped file.
    File(TensorView),
    /// To be made from the seed.
    Init {
        /// Its name, which the elements depend on.
        name: String,
        /// How.
        init: Init,
        /// From which seed.
        seed: u64,
        /// How many.
        count: usize,
    },
    /// Computed.
    Values(Vec<f32>),
}

impl Source {
    /// Opens the model at `path` and checks that every tensor is there in its shape.
    pub fn open(path: &Path, seed: u64) -> Result<Source, TrainError> {
        Source::of(ModelFiles::open(path)?, path, seed)
    }

    /// A model of that config, with random weights, that is in no file.
    pub fn of_config(config: Map<String, Value>, seed: u64) -> Result<Source, TrainError> {
        Source::of(ModelFiles::Folder(ModelFolder::of_config(config)), Path::new(""), seed)
    }

    fn of(files: ModelFiles, path: &Path, seed: u64) -> Result<Source, TrainError> {
        let config = Config::new(&serde_json::Value::Object(files.config().clone()));
        let architecture = config.and_then(|config| models::from_config(&config));
        let architecture = architecture.map_err(|error| match (error, &files) {
            (ModelError::Config(problem), ModelFiles::Gguf(_)) => {
                TrainError::folder(path, format!("its metadata are those of no model: {problem}"))
            }
            (error, _) => error.into(),
        })?;
        let tensors: Vec<_> = architecture.tensors();
        let tensors = tensors.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let source = Source { files, architecture, seed, tensors };
        for spec in source.tensors.values() {
            if let Some(view) = source.view(spec)? {
                // Says by name which tensor cannot be read as weights, before anything is read.
                convert::convert_range(&view, 0..0, WeightDType::F32, &mut Vec::new())?;
            }
        }
        Ok(source)
    }

    /// Puts into a folder what belongs to the model besides config and weights: tokenizer, chat template, ...
    pub fn write_side_files(&self, folder: &Path) -> Result<(), TrainError> {
        match &self.files {
            ModelFiles::Folder(from) => drop(copy_side_files(from.dir(), folder)?),
            ModelFiles::Gguf(gguf) => data::write_side_files(gguf, folder)?,
        }
        Ok(())
    }

    /// Tensors in the files that the model does not use, without those that are known to be harmless.
    pub fn ignored(&self) -> Vec<String> {
        let Some(files) = self.files.tensors() else { return Vec::new() };
        let used: std::collections::BTreeSet<&str> = self
            .tensors
            .values()
            .flat_map(|spec| [Some(spec.name.as_str()), spec.alias.as_deref()])
            .flatten()
            .collect();
        let harmless = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];
        let tied = self.architecture.head().weight != "lm_head.weight";
        let unknown = files.names().filter(|name| {
            let known = used.contains(name) || harmless.iter().any(|end| name.ends_with(end));
            let head_again = tied && *name == "lm_head.weight";
            !known && !head_again
        });
        unknown.map(str::to_owned).collect()
    }

    /// The view of a tensor under either of its names; `None` for a model that starts from random weights.
    fn view(&self, spec: &TensorSpec) -> Result<Option<TensorView>, WeightsError> {
        let Some(files) = self.files.tensors() else { return Ok(None) };
        let name = match &spec.alias {
            Some(alias) if !files.contains(&spec.name) && files.contains(alias) => alias,
            _ => &spec.name,
        };
        files.require(name, &spec.shape).map(Some)
    }

    /// The type in which a tensor lies in the files; f32 if it is made.
    pub fn stored(&self, name: &str) -> DType {
        let view = self.tensors.get(name).and_then(|spec| self.view(spec).ok().flatten());
        view.and_then(|view| view.weight_dtype().ok()).map_or(DType::F32, dtype)
    }

    /// The elements of one of the model's tensors, or of a buffer that is computed from its config.
    pub fn elements(&self, name: &str) -> Result<Elements, TrainError> {
        let Some(spec) = self.tensors.get(name) else {
            let computed = self.architecture.computed().into_iter().find(|(computed, _)| computed == name);
            return match computed {
                Some((_, values)) => Ok(Elements::Values(values)),
                None => Err(TrainError::Settings(format!("the model has no tensor {name:?}"))),
            };
        };
        Ok(match self.view(spec)? {
            Some(view) => Elements::File(view),
            None => Elements::Init {
                name: name.into(),
                init: spec.init,
                seed: self.seed,
                count: spec.shape.iter().product(),
            },
        })
    }

    /// Elements of all of the model's tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }

    /// Positions that the model can tell apart are enough for the sequence length.
    pub fn check_length(&self, seq_len: usize) -> Result<(), TrainError> {
        match self.architecture.position_limit() {
            Some(limit) if seq_len > limit => Err(TrainError::Settings(format!(
                "--seq-len {seq_len} is more than the {limit} positions that the model has; take {limit} or less"
            ))),
            _ => Ok(()),
        }
    }

    /// No token of a batch is beyond the model's vocabulary. Asked of batches, not of the tokenizer: many have
    /// tokens that the model never got and that no text brings up.
    pub fn check_tokens(&self, batch: &Batch) -> Result<(), TrainError> {
        let vocabulary = self.architecture.vocabulary();
        match batch.tokens.iter().chain(&batch.targets).find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => Err(TrainError::Settings(format!(
                "the data has the token {id}, and the model's vocabulary ends before {vocabulary}; the tokenizer in {} \
                 does not belong to the model, or the data has a special token that the model never learned",
                self.files.place().display()
            ))),
        }
    }
}

/// What a person said about adapters.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoraSettings<'a> {
    /// An adapter to start from.
    pub adapter: Option<&'a Path>,
    /// Rank, if said.
    pub rank: Option<usize>,
    /// Alpha, if said.
    pub alpha: Option<f64>,
    /// Targets, if said.
    pub targets: Option<&'a str>,
    /// Dropout, if said.
    pub dropout: Option<f64>,
}

/// The adapters of a run and, if they come from files, these.
pub struct AdapterSource {
    /// The adapters.
    pub lora: Lora,
    files: Option<PeftAdapter>,
    seed: u64,
}

impl AdapterSource {
    /// The adapters that are asked for on a model.
    pub fn new(source: &Source, model: &Path, said: LoraSettings<'_>) -> Result<AdapterSource, TrainError> {
        let (config, files) = match said.adapter {
            Some(dir) => {
                let files = PeftAdapter::open(dir)?;
                let config = files.config().clone();
                agree(&config, said, source)?;
                let dropout = said.dropout.unwrap_or(config.dropout);
                (PeftConfig { dropout, ..config }, Some(files))
            }
            None => {
                let targets = said.targets.unwrap_or("all-linear");
                let targets = targets_from_text(targets, source.architecture.as_ref())?;
                let config = PeftConfig::new(said.rank.unwrap_or(8), said.alpha.unwrap_or(16.0), targets);
                let base_model = Some(model.display().to_string());
                (PeftConfig { dropout: said.dropout.unwrap_or(0.0), base_model, ..config }, None)
            }
        };
        let lora = Lora::new(source.architecture.as_ref(), config)?;
        if let Some(files) = &files {
            fits(&lora, files)?;
        }
        Ok(AdapterSource { lora, files, seed: source.seed })
    }

    /// The elements of one of the adapters' tensors; `None` if it is none of theirs.
    pub fn elements(&self, name: &str) -> Option<Elements> {
        let module =
            self.lora.modules().iter().find(|module| module.a_name() == name || module.b_name() == name)?;
        let is_a = module.a_name() == name;
        if let Some(pair) = self.files.as_ref().and_then(|files| files.modules().get(&module.path)) {
            return Some(Elements::File(if is_a { pair.a.clone() } else { pair.b.clone() }));
        }
        let (init, shape) = match is_a {
            true => (module.a_init(), module.a_shape()),
            false => (module.b_init(), module.b_shape()),
        };
        Some(Elements::Init { name: name.into(), init, seed: self.seed, count: shape.iter().product() })
    }
}

/// With an adapter to start from, what else is said must be what it says.
fn agree(config: &PeftConfig, said: LoraSettings<'_>, source: &Source) -> Result<(), TrainError> {
    let differs = |flag: &str, said: String, has: String| {
        Err(TrainError::Settings(format!(
            "--{flag} {said} does not agree with the adapter, which has {has}; leave the flag out to go on with the \
             adapter as it is"
        )))
    };
    match said.rank {
        Some(rank) if rank != config.rank => {
            return differs("rank", rank.to_string(), config.rank.to_string());
        }
        _ => {}
    }
    match said.alpha {
        Some(alpha) if alpha != config.alpha => {
            return differs("alpha", alpha.to_string(), config.alpha.to_string());
        }
        _ => {}
    }
    let Some(targets) = said.targets else { return Ok(()) };
    let wanted =
        PeftConfig { targets: targets_from_text(targets, source.architecture.as_ref())?, ..config.clone() };
    let paths = |config: PeftConfig| -> Result<Vec<String>, TrainError> {
        let lora = Lora::new(source.architecture.as_ref(), config)?;
        Ok(lora.modules().iter().map(|module| module.path.clone()).collect())
    };
    match paths(wanted)? == paths(config.clone())? {
        true => Ok(()),
        false => differs("targets", targets.into(), describe(&config.targets)),
    }
}

fn describe(targets: &TargetSpec) -> String {
    match targets {
        TargetSpec::AllLinear => "all-linear".into(),
        TargetSpec::Names(names) => names.join(","),
        TargetSpec::Regex(pattern) => pattern.source().into(),
    }
}

/// Every adapted layer has its tensors in the files, in the layer's sizes, and there are no others.
fn fits(lora: &Lora, files: &PeftAdapter) -> Result<(), TrainError> {
    let refuse = |problem: String| Err(TrainError::File { path: files.dir().into(), problem });
    for module in lora.modules() {
        let Some(pair) = files.modules().get(&module.path) else {
            return refuse(format!(
                "its config names the layer {}, but there are no tensors for it",
                module.path
            ));
        };
        if pair.a.shape() != module.a_shape() || pair.b.shape() != module.b_shape() {
            return refuse(format!(
                "the adapter on {} has shapes {:?} and {:?}; this model needs {:?} and {:?}. It was trained on \
                 another model",
                module.path,
                pair.a.shape(),
                pair.b.shape(),
                module.a_shape(),
                module.b_shape()
            ));
        }
    }
    match files.modules().keys().find(|path| lora.module(path).is_none()) {
        Some(path) => refuse(format!("it has tensors for {path}, which is no linear layer of this model")),
        None => Ok(()),
    }
}

impl Elements {
    /// Gives the elements as little-endian bytes of a float type, piece by piece with the offset of each in
    /// bytes.
    pub fn for_each_piece(
        &self,
        to: WeightDType,
        mut piece: impl FnMut(usize, &[u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let mut bytes = Vec::new();
        for start in (0..self.count()).step_by(CHUNK) {
            let range = start..self.count().min(start + CHUNK);
            self.range(range, to, &mut bytes)?;
            piece(start * to.size(), &bytes)?;
        }
        Ok(())
    }

    /// The elements `range`, in row-major order, as little-endian bytes of a float type. `bytes` is replaced.
    pub fn range(&self, range: Range<usize>, to: WeightDType, bytes: &mut Vec<u8>) -> Result<(), TrainError> {
        match self {
            Elements::File(view) => convert::convert_range(view, range, to, bytes)?,
            Elements::Init { name, init, seed, .. } => {
                let mut values = vec![0.0f32; range.len()];
                fill(*init, *seed, name, range.start as u64, &mut values);
                convert::convert_bytes(bytemuck::cast_slice(&values), WeightDType::F32, to, bytes);
            }
            Elements::Values(values) => {
                convert::convert_bytes(bytemuck::cast_slice(&values[range]), WeightDType::F32, to, bytes);
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Elements::File(view) => view.elements(),
            Elements::Init { count, .. } => *count,
            Elements::Values(values) => values.len(),
        }
    }
}

/// The program language's name for a weight type.
pub fn dtype(weight: WeightDType) -> DType {
    match weight {
        WeightDType::F16 => DType::F16,
        WeightDType::BF16 => DType::Bf16,
        WeightDType::F32 => DType::F32,
    }
}

/// The inverse of [`dtype`], for float types.
pub fn weight_dtype(dtype: DType) -> Option<WeightDType> {
    [WeightDType::F16, WeightDType::BF16, WeightDType::F32]
        .into_iter()
        .find(|&weight| self::dtype(weight) == dtype)
}

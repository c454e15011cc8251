//! What can be wrong with weights on disk, in sentences.

use std::io;
use std::path::{Path, PathBuf};

use super::dtype::Encoding;

/// An error of the weights room. Each message names the file or tensor, says what was expected and, where
/// something can be done about it, what.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{} does not exist", .0.display())]
    NotFound(PathBuf),

    #[error(
        "there is no folder {id}, and downloading from the hub is not supported yet: download the folder \
         (for example with `huggingface-cli download {id} --local-dir DIR`) and give its path"
    )]
    HubId { id: String },

    #[error(
        "{} is a pickle, and loading a pickle can run code that is hidden in it, so it is refused; convert it \
         where you trust it: load it with transformers and save it with \
         `model.save_pretrained(DIR, safe_serialization=True)`, then give DIR", path.display()
    )]
    Pickle { path: PathBuf },

    /// A GGUF file that contradicts itself or its own size, or holds what is not read.
    #[error("{} is not a GGUF file that can be used: {problem}", path.display())]
    Gguf { path: PathBuf, problem: String },

    /// A folder that is no model's, with GGUF files in it.
    #[error("{} is a folder with a GGUF file; give the file itself as the model: {}", dir.display(), file.display())]
    GgufInFolder { dir: PathBuf, file: PathBuf },

    /// The path is there but is not what was asked for.
    #[error("{} {problem}", path.display())]
    Unusable { path: PathBuf, problem: String },

    #[error(
        "{} has a config.json but no weights (model.safetensors, or model.safetensors.index.json with its \
         shards); to start from random weights give the path of config.json itself", .0.display()
    )]
    NoWeights(PathBuf),

    #[error("{} is not valid JSON at line {line}, column {column}: {message}", path.display())]
    Json { path: PathBuf, line: usize, column: usize, message: String },

    /// A safetensors file that contradicts itself or its own size.
    #[error("{} is not a usable safetensors file: {problem}", path.display())]
    Safetensors { path: PathBuf, problem: String },

    /// An index (`model.safetensors.index.json`) that contradicts the files beside it.
    #[error("{}: {problem}", path.display())]
    Index { path: PathBuf, problem: String },

    #[error("tensor {name} is missing from {looked_in}{}", hint(.closest))]
    MissingTensor { name: String, looked_in: String, closest: Option<String> },

    #[error("tensor {name} in {} has shape {found:?}, but {expected:?} was expected", path.display())]
    Shape { name: String, path: PathBuf, found: Vec<usize>, expected: Vec<usize> },

    #[error(
        "tensor {name} in {} holds {encoding} values, which cannot be read as weights; F32, F16, BF16 and F64 can \
         (a quantized model has to be given in its unquantized form)", path.display()
    )]
    DType { name: String, path: PathBuf, encoding: Encoding },

    /// A caller asked for elements that a tensor does not have.
    #[error("elements {start}..{end} of tensor {name} were asked for, but it has {elements}")]
    Range { name: String, start: usize, end: usize, elements: usize },

    #[error("{} was changed while it was in use: {change}; start again once nobody writes to it", path.display())]
    Changed { path: PathBuf, change: String },

    /// A writer was given other tensors or bytes than it was created for.
    #[error("cannot write {}: {problem}", path.display())]
    Write { path: PathBuf, problem: String },

    /// An adapter that is well-formed but cannot be used, or is not well-formed.
    #[error("the adapter's {}: {problem}", path.display())]
    Adapter { path: PathBuf, problem: String },

    #[error("the module pattern {pattern:?} cannot be used: {problem}")]
    Pattern { pattern: String, problem: String },
}

fn hint(closest: &Option<String>) -> String {
    closest.as_ref().map(|name| format!("; the closest name there is {name}")).unwrap_or_default()
}

impl WeightsError {
    /// For `map_err`: an operating-system error while trying to `action` (a verb) the file at `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn adapter(path: &Path, problem: impl Into<String>) -> Self {
        Self::Adapter { path: path.to_path_buf(), problem: problem.into() }
    }
}

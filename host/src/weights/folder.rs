//! A Hugging Face folder, or a `config.json` to start from random weights.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::WeightsError;
use super::json;
use super::tensors::Tensors;

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// A model in a folder: its config, its weights if it has any, and the folder its other files are in.
#[derive(Debug)]
pub struct ModelFolder {
    config_path: PathBuf,
    config: Map<String, Value>,
    tensors: Option<Tensors>,
}

impl ModelFolder {
    /// Opens a model's folder or config.
    ///
    /// A folder must hold `config.json` and weights: `model.safetensors`, or `model.safetensors.index.json`
    /// with its shards, or a single `.safetensors` file of another name; the first of these that is there
    /// counts. The path of a JSON file is a config without weights; the tokenizer is looked for beside it.
    ///
    /// # Errors
    /// Everything else is refused with a sentence that says what it is and what to give instead: hub ids,
    /// pickles, folders of GGUF files, folders without config or weights, invalid JSON, unsound or incomplete weight files.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Self::open_dir(path),
            Ok(_) => Self::open_config(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found(path)),
            Err(error) => Err(WeightsError::io("read", path)(error)),
        }
    }

    /// A model that is nothing but this config, and starts from random weights. It is in no folder.
    pub fn of_config(config: Map<String, Value>) -> Self {
        Self { config_path: PathBuf::from(CONFIG), config, tensors: None }
    }

    fn open_dir(dir: &Path) -> Result<Self, WeightsError> {
        let files = list_files(dir)?;
        let config_path = dir.join(CONFIG);
        if !config_path.exists() {
            return Err(no_config(dir, &files));
        }
        let config = read_config(&config_path)?;
        let tensors = Some(open_weights(dir, &files)?);
        Ok(Self { config_path, config, tensors })
    }

    fn open_config(path: &Path) -> Result<Self, WeightsError> {
        let name = file_name(path);
        if let Some(refusal) = refuse_by_name(path) {
            return Err(refusal);
        }
        if name == INDEX || name.ends_with(".safetensors") {
            return Err(WeightsError::unusable(path, "is a weight file; give the folder that holds it"));
        }
        if name == ADAPTER_CONFIG {
            return Err(WeightsError::unusable(
                path,
                "belongs to an adapter; give its base model as the model and the adapter's folder with --adapter",
            ));
        }
        if !name.ends_with(".json") {
            return Err(WeightsError::unusable(
                path,
                "is neither a model's folder nor a GGUF file nor a config.json",
            ));
        }
        Ok(Self { config_path: path.to_path_buf(), config: read_config(path)?, tensors: None })
    }

    /// The config file.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// The content of the config file, in its order.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The weights; `None` if the model starts from random ones.
    pub fn tensors(&self) -> Option<&Tensors> {
        self.tensors.as_ref()
    }

    /// The folder that holds the config, tokenizer and other side files.
    pub fn dir(&self) -> &Path {
        match self.config_path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }
}

fn read_config(path: &Path) -> Result<Map<String, Value>, WeightsError> {
    match json::parse(&json::read_bytes(path)?, path)? {
        Value::Object(config) => Ok(config),
        _ => Err(WeightsError::unusable(path, "is valid JSON but not an object, as a config must be")),
    }
}

fn open_weights(dir: &Path, files: &[String]) -> Result<Tensors, WeightsError> {
    if files.iter().any(|name| name == WEIGHTS) {
        return Tensors::open_file(&dir.join(WEIGHTS));
    }
    if files.iter().any(|name| name == INDEX) {
        return Tensors::open_index(&dir.join(INDEX));
    }
    let others: Vec<_> =
        files.iter().filter(|name| name.ends_with(".safetensors") && *name != ADAPTER_WEIGHTS).collect();
    match others[..] {
        [only] => Tensors::open_file(&dir.join(only)),
        [] => Err(weights_refusal(dir, files).unwrap_or_else(|| WeightsError::NoWeights(dir.to_path_buf()))),
        _ => Err(WeightsError::unusable(
            dir,
            format!(
                "holds {} .safetensors files but no {INDEX} that says which tensor is where",
                others.len()
            ),
        )),
    }
}

fn no_config(dir: &Path, files: &[String]) -> WeightsError {
    if files.iter().any(|name| name == ADAPTER_CONFIG) {
        return WeightsError::unusable(
            dir,
            "is an adapter, not a model; give its base model as the model and this folder with --adapter",
        );
    }
    let sound = files.iter().any(|name| name.ends_with(".safetensors"));
    let refusal = if sound { None } else { weights_refusal(dir, files) };
    refusal.unwrap_or_else(|| {
        WeightsError::unusable(dir, "has no config.json, so it is not a model's Hugging Face folder")
    })
}

/// The refusal of the first file in `dir` that holds weights in a form that is not read.
pub(super) fn weights_refusal(dir: &Path, files: &[String]) -> Option<WeightsError> {
    files.iter().find_map(|name| refuse_by_name(&dir.join(name)))
}

/// Refuses a file that by its name holds weights in a form that is not read.
pub(super) fn refuse_by_name(path: &Path) -> Option<WeightsError> {
    let name = file_name(path).to_ascii_lowercase();
    // transformers writes the trainer's arguments as a small pickle beside sound weights: not weights.
    if name == "training_args.bin" {
        return None;
    }
    let path = path.to_path_buf();
    if name.ends_with(".gguf") {
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        return Some(WeightsError::GgufInFolder { dir, file: path });
    }
    let pickle = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"].iter().any(|end| name.ends_with(end))
        || name == "pytorch_model.bin.index.json";
    pickle.then_some(WeightsError::Pickle { path })
}

/// The names of the files (not folders) in `dir`, sorted, so that errors do not depend on the disk's order.
pub(super) fn list_files(dir: &Path) -> Result<Vec<String>, WeightsError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(WeightsError::io("list", dir))? {
        let entry = entry.map_err(WeightsError::io("list", dir))?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The error for a path that is not there: a hub id gets advice.
pub(super) fn not_found(path: &Path) -> WeightsError {
    let text = path.to_string_lossy();
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let file =
        [".json", ".safetensors", ".gguf", ".bin", ".pt", ".pth"].iter().any(|end| text.ends_with(end));
    match text.split_once('/') {
        Some((org, name)) if part(org) && part(name) && !file => {
            WeightsError::HubId { id: text.into_owned() }
        }
        _ => WeightsError::NotFound(path.to_path_buf()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;

//! Writing a model's Hugging Face folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::atomic;
use super::dtype::WeightDType;
use super::error::WeightsError;
use super::folder::{CONFIG, INDEX, WEIGHTS, list_files};
use super::writer::{SafetensorsWriter, TensorSpec};

/// A model up to this size becomes one file, a larger one shards of at most this size.
pub const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// A model's weights in the making: one `model.safetensors`, or shards with their index.
///
/// Meant to write into an [`AtomicDir`](super::atomic::AtomicDir), since a folder with some of its shards is
/// of no use.
#[derive(Debug)]
pub struct ModelWriter {
    dir: PathBuf,
    shards: Vec<(String, SafetensorsWriter)>,
    shard_of: BTreeMap<String, usize>,
    total_bytes: u64,
}

impl ModelWriter {
    /// Begins the weights of `tensors` in the existing folder `dir`. Tensors are put into shards in the order
    /// given; a tensor larger than `max_shard_bytes` gets a shard of its own.
    ///
    /// # Errors
    /// Two tensors of one name, sizes that overflow, or files that cannot be made.
    pub fn create(dir: &Path, tensors: &[TensorSpec], max_shard_bytes: u64) -> Result<Self, WeightsError> {
        let refuse = |problem| WeightsError::Write { path: dir.to_path_buf(), problem };
        let (plan, total_bytes) = plan_shards(tensors, max_shard_bytes).map_err(refuse)?;
        let mut shard_of = BTreeMap::new();
        let mut shards = Vec::new();
        for (number, range) in plan.iter().enumerate() {
            let file = match plan.len() {
                1 => WEIGHTS.to_string(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            for tensor in &tensors[range.clone()] {
                if shard_of.insert(tensor.name.clone(), number).is_some() {
                    return Err(refuse(format!("there are two tensors called {}", tensor.name)));
                }
            }
            let writer =
                SafetensorsWriter::create(&dir.join(&file), &tensors[range.clone()], &[("format", "pt")])?;
            shards.push((file, writer));
        }
        Ok(Self { dir: dir.to_path_buf(), shards, shard_of, total_bytes })
    }

    /// Appends `bytes` to the tensor `name`; as [`SafetensorsWriter::write`].
    ///
    /// # Errors
    /// An unknown tensor, too many bytes, or a failing disk.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        match self.shard_of.get(name) {
            Some(&shard) => self.shards[shard].1.write(name, bytes),
            None => Err(WeightsError::Write {
                path: self.dir.clone(),
                problem: format!("it was begun without a tensor called {name}"),
            }),
        }
    }

    /// Completes all files, and writes the index if there are shards.
    ///
    /// # Errors
    /// A tensor lacks bytes, or the disk fails.
    pub fn finish(self) -> Result<(), WeightsError> {
        let mut files = Vec::new();
        for (file, writer) in self.shards {
            writer.finish()?;
            files.push(file);
        }
        if files.len() == 1 {
            return Ok(());
        }
        let weight_map: Map<_, _> =
            self.shard_of.iter().map(|(name, &shard)| (name.clone(), files[shard].as_str().into())).collect();
        let index = json!({ "metadata": { "total_size": self.total_bytes }, "weight_map": weight_map });
        write_json(&self.dir.join(INDEX), &index)
    }
}

/// Consecutive ranges of `tensors` and the bytes of all together. No tensors still make one (empty) file.
fn plan_shards(tensors: &[TensorSpec], max_bytes: u64) -> Result<(Vec<std::ops::Range<usize>>, u64), String> {
    let (mut plan, mut total, mut begin, mut filled) = (Vec::new(), 0u64, 0, 0u64);
    for (at, tensor) in tensors.iter().enumerate() {
        let size = tensor.byte_size().ok_or_else(|| format!("tensor {} is too large", tensor.name))?;
        total = total.checked_add(size).ok_or("the tensors are too large together")?;
        if at > begin && filled.saturating_add(size) > max_bytes {
            plan.push(begin..at);
            (begin, filled) = (at, 0);
        }
        filled = filled.saturating_add(size);
    }
    plan.push(begin..tensors.len());
    Ok((plan, total))
}

/// Copies what belongs to a model besides its weights and config from the folder `from` to the folder `to`:
/// tokenizer, generation config, chat template. Gives the names of the copied files, sorted.
///
/// # Errors
/// `from` cannot be listed, or a file cannot be copied.
pub fn copy_side_files(from: &Path, to: &Path) -> Result<Vec<String>, WeightsError> {
    let mut names = list_files(from)?;
    names.retain(|name| is_side_file(name));
    for name in &names {
        let source = from.join(name);
        fs::copy(&source, to.join(name)).map_err(WeightsError::io("copy", &source))?;
    }
    Ok(names)
}

fn is_side_file(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "tekken.json",
    ];
    NAMES.contains(&name)
        || (name.starts_with("tokenizer") && name.ends_with(".json"))
        || name.starts_with("chat_template.")
}

/// Writes `config` as `config.json` into the folder `dir`, with `dtype` as the weights' dtype.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(dir: &Path, config: &Map<String, Value>, dtype: WeightDType) -> Result<(), WeightsError> {
    let mut config = config.clone();
    set_config_dtype(&mut config, dtype);
    write_json(&dir.join(CONFIG), &Value::Object(config))
}

/// Makes a config say that its weights are of `dtype`, in whichever spelling it has: `torch_dtype`, the newer
/// `dtype`, or both. A config without either gets `torch_dtype`, which every transformers understands.
pub fn set_config_dtype(config: &mut Map<String, Value>, dtype: WeightDType) {
    let spellings = ["dtype", "torch_dtype"];
    let present: Vec<_> = spellings.into_iter().filter(|key| config.contains_key(*key)).collect();
    for key in if present.is_empty() { vec!["torch_dtype"] } else { present } {
        config.insert(key.to_string(), dtype.torch_name().into());
    }
}

/// Writes `value` indented by two, as transformers and PEFT do, with a newline at the end.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    atomic::write_file(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;

//! A model, with its adapter merged into the weights if there is one, as a Hugging Face folder.
//!
//! One piece of a tensor is in memory at a time, whatever the model's size. What was written is read again and
//! compared with base and adapter before the folder gets its name.

mod compare;
mod merge;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::models;
use crate::weights::atomic::AtomicDir;
use crate::weights::{
    DEFAULT_MAX_SHARD_BYTES, ModelFolder, ModelWriter, TensorSpec, WeightDType, write_config,
};

use super::error::TrainError;
use super::event::{Event, Observer};
use super::source::{AdapterSource, Elements, LoraSettings, Source};

use compare::Comparison;
use merge::Product;

/// Elements that are computed at once: 8 MiB of f64.
const PIECE: usize = 1 << 20;

/// What to export.
pub struct ExportRequest {
    /// A Hugging Face folder.
    pub model: PathBuf,
    /// A PEFT adapter to merge into it.
    pub adapter: Option<PathBuf>,
    /// The type of the weights; that of the model's files if not said.
    pub dtype: Option<WeightDType>,
    /// Where the folder will be; nothing may be there, or an empty folder.
    pub out: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportSummary {
    /// The type of the weights.
    pub dtype: WeightDType,
    /// Tensors written.
    pub tensors: usize,
    /// Those of them that an adapter was merged into.
    pub merged: usize,
    /// Elements written.
    pub parameters: u64,
    /// How far rounding to `dtype` moves the output of the merged layer that it moves most, over the size of
    /// that output.
    pub difference: f64,
    /// The same over what the adapter adds to the output: 1 if rounding is as large as the adapter.
    pub of_adapter: f64,
}

/// One tensor of the exported model.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    elements: Elements,
    product: Option<Product>,
}

/// What each tensor is made of, without the elements of any.
struct Plan<'a> {
    source: &'a Source,
    adapter: Option<&'a AdapterSource>,
    tensors: Vec<models::TensorSpec>,
    /// A head that was the token embedding and is a tensor of its own now, because the adapter is on it alone.
    untied: bool,
}

/// Exports.
///
/// # Errors
/// A model, adapter or folder that cannot be used; values that the type cannot hold; a written tensor that is
/// not base and adapter within the type's rounding. Nothing is left in any of these cases.
pub fn export(request: &ExportRequest, observer: &mut dyn Observer) -> Result<ExportSummary, TrainError> {
    check_out(&request.out)?;
    let source = Source::open(&request.model, 0)?;
    let Some(files) = source.files.tensors() else {
        return Err(TrainError::folder(
            &request.model,
            "it is a config without weights, so there is nothing to export; give a folder with weights",
        ));
    };
    let said = LoraSettings { adapter: request.adapter.as_deref(), ..LoraSettings::default() };
    let adapter = match request.adapter {
        Some(_) => Some(AdapterSource::new(&source, &request.model, said)?),
        None => None,
    };
    let ignored = source.ignored();
    if let Some(first) = ignored.first() {
        let message =
            format!("{} tensors that the model does not use are left out: {first}, ..", ignored.len());
        observer.event(&Event::Warning { message });
    }
    let plan = Plan::new(&source, adapter.as_ref());
    let dtype = request.dtype.unwrap_or_else(|| plan.stored());
    let folder = AtomicDir::create(&request.out)?;
    source.write_side_files(folder.path())?;
    write_config(folder.path(), &plan.config(), dtype)?;
    plan.write(folder.path(), dtype, &mut |done, total| observer.progress("writing", done, total))?;
    let mut summary = plan.summary(dtype);
    let worst =
        plan.compare(folder.path(), dtype, &mut |done, total| observer.progress("comparing", done, total))?;
    (summary.difference, summary.of_adapter) = worst;
    files.check_unchanged()?;
    check_out(&request.out)?;
    folder.commit()?;
    Ok(summary)
}

fn check_out(out: &Path) -> Result<(), TrainError> {
    // What else may be wrong with it is said where it is made.
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(TrainError::folder(
            out,
            "there is something in this folder, and an export overwrites nothing; give another --out",
        ));
    }
    Ok(())
}

impl<'a> Plan<'a> {
    fn new(source: &'a Source, adapter: Option<&'a AdapterSource>) -> Plan<'a> {
        let mut tensors = source.architecture.tensors();
        let head = source.architecture.head();
        let own = format!("{}.weight", head.path);
        let adapted = adapter.is_some_and(|adapter| adapter.lora.module(&head.path).is_some());
        let untied = adapted && head.weight != own;
        if untied && let Some(embedding) = tensors.iter().find(|spec| spec.name == head.weight) {
            tensors.push(models::TensorSpec { name: own, alias: None, ..embedding.clone() });
        }
        Plan { source, adapter, tensors, untied }
    }

    /// The type that most elements have in the files.
    fn stored(&self) -> WeightDType {
        let count = |dtype: WeightDType| -> usize {
            let of_type = self
                .tensors
                .iter()
                .filter(|spec| super::source::weight_dtype(self.source.stored(&spec.name)) == Some(dtype));
            of_type.map(|spec| spec.shape.iter().product::<usize>()).sum()
        };
        let all = [WeightDType::F16, WeightDType::BF16, WeightDType::F32];
        all.into_iter().max_by_key(|&dtype| count(dtype)).unwrap_or(WeightDType::F32)
    }

    fn config(&self) -> serde_json::Map<String, Value> {
        let mut config = self.source.files.config().clone();
        if self.untied {
            config.insert("tie_word_embeddings".into(), false.into());
        }
        config
    }

    fn summary(&self, dtype: WeightDType) -> ExportSummary {
        ExportSummary {
            dtype,
            tensors: self.tensors.len(),
            merged: self.adapter.map_or(0, |adapter| adapter.lora.modules().len()),
            parameters: self.tensors.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum(),
            difference: 0.0,
            of_adapter: 0.0,
        }
    }

    fn tensor(&self, spec: &models::TensorSpec) -> Result<Tensor, TrainError> {
        let head = self.source.architecture.head();
        let from = if self.untied && spec.name == format!("{}.weight", head.path) {
            &head.weight
        } else {
            &spec.name
        };
        // The tied head's tensor also is the embedding, which no adapter is on.
        let path = spec.name.strip_suffix(".weight");
        let linear = path.and_then(|path| {
            self.source.architecture.linears().into_iter().find(|linear| linear.path == path)
        });
        let product = match (self.adapter, &linear) {
            (Some(adapter), Some(linear)) => Product::new(adapter, linear)?,
            _ => None,
        };
        let elements = self.source.elements(from)?;
        Ok(Tensor { name: spec.name.clone(), shape: spec.shape.clone(), elements, product })
    }

    fn write(
        &self,
        dir: &Path,
        dtype: WeightDType,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), TrainError> {
        let specs: Vec<_> = self
            .tensors
            .iter()
            .map(|spec| TensorSpec::new(spec.name.as_str(), dtype, spec.shape.clone()))
            .collect();
        let mut writer = ModelWriter::create(dir, &specs, DEFAULT_MAX_SHARD_BYTES)?;
        for (done, spec) in self.tensors.iter().enumerate() {
            progress(done as u64, self.tensors.len() as u64);
            let tensor = self.tensor(spec)?;
            tensor.pieces(dtype, &mut |bytes| Ok(writer.write(&tensor.name, bytes)?))?;
        }
        Ok(writer.finish()?)
    }

    /// Holds what was written against base and adapter; the greatest differences.
    fn compare(
        &self,
        dir: &Path,
        dtype: WeightDType,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(f64, f64), TrainError> {
        let written = ModelFolder::open(dir)?;
        let files =
            written.tensors().ok_or_else(|| TrainError::Internal("the export has no weights".into()))?;
        let mut worst = (0.0f64, 0.0f64);
        for (done, spec) in self.tensors.iter().enumerate() {
            progress(done as u64, self.tensors.len() as u64);
            let tensor = self.tensor(spec)?;
            let view = files.require(&tensor.name, &tensor.shape)?;
            let found = Comparison::of(&tensor, &Elements::File(view), dtype)?;
            worst = (worst.0.max(found.difference()), worst.1.max(found.of_adapter()));
        }
        progress(self.tensors.len() as u64, self.tensors.len() as u64);
        Ok(worst)
    }
}

impl Tensor {
    /// Elements of a row; a tensor without rows is one row.
    fn columns(&self) -> usize {
        match self.shape[..] {
            [_, columns] => columns.max(1),
            _ => self.elements.count().max(1),
        }
    }

    /// Ranges of whole rows that fit into a piece, at least one row each; or of elements, if no product needs rows.
    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let step = match self.product {
            Some(_) => (PIECE / self.columns()).max(1) * self.columns(),
            None => PIECE,
        };
        let count = self.elements.count();
        (0..count).step_by(step).map(move |start| start..count.min(start.saturating_add(step)))
    }

    /// The tensor as it is written, piece by piece.
    fn pieces(
        &self,
        dtype: WeightDType,
        piece: &mut dyn FnMut(&[u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for range in self.ranges() {
            match &self.product {
                None => self.elements.range(range, dtype, &mut bytes)?,
                Some(product) => {
                    self.elements.range(range.clone(), WeightDType::F32, &mut bytes)?;
                    values.clear();
                    values.extend(floats(&bytes));
                    product.add_to(range.start / self.columns(), &mut values);
                    crate::weights::convert::convert_values(&values, dtype, &mut bytes);
                }
            }
            piece(&bytes)?;
        }
        Ok(())
    }
}

/// Little-endian f32 as f64.
fn floats(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests;

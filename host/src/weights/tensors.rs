//! The named tensors of a model's files, mapped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dtype::{Encoding, WeightDType};
use super::error::WeightsError;
use super::header::{self, Entry};
use super::map::{MappedBytes, MappedFile};
use super::{index, json};

/// All tensors of a model or adapter. Opening it maps every file once and checks every header; the tensors'
/// bytes stay on disk until they are touched.
#[derive(Debug)]
pub struct Tensors {
    files: Vec<Arc<MappedFile>>,
    entries: BTreeMap<String, (usize, Place)>,
    /// What an error says was searched.
    source: String,
}

/// Where a tensor is in its file, and how it is written there.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub encoding: Encoding,
    pub rows: RowOrder,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// As many as encoding and shape need, counted from the start of the file.
    pub bytes: Range<usize>,
}

impl From<Entry> for Place {
    fn from(Entry { dtype, shape, bytes }: Entry) -> Place {
        Place { encoding: Encoding::Plain(dtype), rows: RowOrder::AsStored, shape, bytes }
    }
}

/// The order of a tensor's rows in its file. A view always has them in the order that models are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    AsStored,
    /// In each group of so many rows (a multiple of two, which their number is a multiple of), the first row of
    /// the first half is followed by the first of the second half, and so on.
    Pairs {
        group: usize,
    },
}

impl RowOrder {
    /// Where the view's row `row` is in the file.
    pub(super) fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::AsStored => row,
            RowOrder::Pairs { group } => {
                let (half, within) = (group / 2, row % group);
                row - within + 2 * (within % half) + within / half
            }
        }
    }
}

/// One tensor: its description, and its bytes in the mapped file (row-major, little-endian).
///
/// Cheap to clone. It keeps the mapping alive, so it may outlive the [`Tensors`] it came from.
#[derive(Debug, Clone)]
pub struct TensorView {
    name: Arc<str>,
    encoding: Encoding,
    rows: RowOrder,
    shape: Arc<[usize]>,
    bytes: MappedBytes,
}

impl Tensors {
    /// The tensors of the single file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is no sound safetensors file.
    pub fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let (file, entries) = open(path)?;
        let places = entries.into_iter().map(|(name, entry)| (name, entry.into()));
        Ok(Self::in_file(file, places.collect()))
    }

    /// Tensors of one file, whose places were checked.
    pub(super) fn in_file(file: Arc<MappedFile>, places: BTreeMap<String, Place>) -> Self {
        let source = file.path().display().to_string();
        let entries = places.into_iter().map(|(name, place)| (name, (0, place))).collect();
        Self { files: vec![file], entries, source }
    }

    /// The tensors that the index at `path` (`model.safetensors.index.json`) names, from the shards beside it.
    ///
    /// # Errors
    /// The index is invalid or leads out of its folder; a shard is missing, unsound, or lacks a tensor that
    /// the index puts there.
    pub fn open_index(path: &Path) -> Result<Self, WeightsError> {
        let weight_map = index::parse(&json::read_bytes(path)?, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let problem = |problem: String| WeightsError::Index { path: path.to_path_buf(), problem };
        let mut files = Vec::new();
        let mut shards: BTreeMap<String, (usize, BTreeMap<String, Entry>)> = BTreeMap::new();
        let mut entries = BTreeMap::new();
        for (tensor, shard) in weight_map {
            if !shards.contains_key(&shard) {
                let shard_path = folder.join(&shard);
                if !shard_path.exists() {
                    return Err(problem(format!(
                        "tensor {tensor} should be in {shard}, but there is no such file; download it, too"
                    )));
                }
                let (file, entries) = open(&shard_path)?;
                files.push(file);
                shards.insert(shard.clone(), (files.len() - 1, entries));
            }
            let entry =
                shards.get_mut(&shard).and_then(|(at, entries)| Some((*at, entries.remove(&tensor)?.into())));
            let entry = entry.ok_or_else(|| {
                problem(format!("tensor {tensor} should be in {shard}, but is not in that file"))
            })?;
            entries.insert(tensor, entry);
        }
        let source = format!("the {} file(s) that {} names", files.len(), path.display());
        Ok(Self { files, entries, source })
    }

    /// The names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor called `name`, of whatever shape and dtype.
    pub fn get(&self, name: &str) -> Option<TensorView> {
        let (file, place) = self.entries.get(name)?;
        Some(TensorView {
            name: name.into(),
            encoding: place.encoding,
            rows: place.rows,
            shape: place.shape.as_slice().into(),
            bytes: MappedBytes::new(self.files[*file].clone(), place.bytes.clone())?,
        })
    }

    /// The tensor called `name`, which must have the shape `expected` and a dtype that can be read as weights.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] says where it was looked for and which name comes closest,
    /// [`WeightsError::Shape`] says both shapes, [`WeightsError::DType`] the dtype.
    pub fn require(&self, name: &str, expected: &[usize]) -> Result<TensorView, WeightsError> {
        let view = self.get(name).ok_or_else(|| self.missing(name))?;
        if view.shape() != expected {
            return Err(WeightsError::Shape {
                name: name.to_string(),
                path: view.path().to_path_buf(),
                found: view.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        if !view.encoding().is_convertible() {
            return Err(view.dtype_error());
        }
        Ok(view)
    }

    /// The error that says `name` is missing, for a caller that tried several names.
    pub fn missing(&self, name: &str) -> WeightsError {
        let closest = closest(name, self.names()).map(str::to_string);
        WeightsError::MissingTensor { name: name.to_string(), looked_in: self.source.clone(), closest }
    }

    /// The files, each once.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// Whether all files still are as they were mapped; see [`MappedFile::check_unchanged`].
    ///
    /// # Errors
    /// The first file that is not.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.files.iter().try_for_each(|file| file.check_unchanged())
    }
}

fn open(path: &Path) -> Result<(Arc<MappedFile>, BTreeMap<String, Entry>), WeightsError> {
    let file = MappedFile::open(path)?;
    let entries = header::parse(file.as_slice())
        .map_err(|problem| WeightsError::Safetensors { path: PathBuf::from(path), problem })?;
    Ok((file, entries))
}

impl TensorView {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the elements are written in the file.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The dtype in the file, if it is one that weights are held in.
    ///
    /// # Errors
    /// [`WeightsError::DType`] for all others, F64 and blocks among them, which have to be converted.
    pub fn weight_dtype(&self) -> Result<WeightDType, WeightsError> {
        self.encoding.as_weight().ok_or_else(|| self.dtype_error())
    }

    /// The dimensions, outermost first; none for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        // The header was checked: this product is a file's size at most.
        self.shape.iter().product()
    }

    /// The elements' bytes as the file has them, also where their encoding or the order of rows has to be changed.
    pub fn bytes(&self) -> &MappedBytes {
        &self.bytes
    }

    /// The elements' bytes and dtype (row-major, little-endian) where the file has them as a device can take
    /// them; `None` where they have to be converted.
    pub fn as_stored(&self) -> Option<(WeightDType, &MappedBytes)> {
        match self.rows {
            RowOrder::AsStored => self.encoding.as_weight().map(|dtype| (dtype, &self.bytes)),
            RowOrder::Pairs { .. } => None,
        }
    }

    pub(super) fn row_order(&self) -> RowOrder {
        self.rows
    }

    /// The file it is in.
    pub fn path(&self) -> &Path {
        self.bytes.file().path()
    }

    pub(super) fn dtype_error(&self) -> WeightsError {
        WeightsError::DType {
            name: self.name.to_string(),
            path: self.path().to_path_buf(),
            encoding: self.encoding,
        }
    }
}

/// The one of `names` that somebody who wrote `name` most probably meant, if any is near.
fn closest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |other: &str| {
        // A prefix more or less (`transformer.`, `model.`) is the commonest difference, and a small one.
        if other.ends_with(&format!(".{name}")) || name.ends_with(&format!(".{other}")) {
            1
        } else {
            edit_distance(name, other)
        }
    };
    names
        .map(|other| (distance(other), other))
        .filter(|(distance, other)| *distance <= name.len().max(other.len()) / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Levenshtein distance in bytes; names longer than any real one count as far away.
fn edit_distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 256;
    if a.len().max(b.len()) > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;

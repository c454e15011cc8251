//! Writing one safetensors file, piece by piece.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic::AtomicFile;
use super::dtype::WeightDType;
use super::error::WeightsError;
use super::header;

/// The description of a tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: WeightDType,
    /// Dimensions, outermost first; none for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    pub fn new(name: impl Into<String>, dtype: WeightDType, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// Bytes of the tensor; `None` if they overflow.
    pub fn byte_size(&self) -> Option<u64> {
        header::byte_size(&self.shape, self.dtype)
    }
}

/// A safetensors file in the making. It holds one buffer, never a tensor: bytes go to the disk as they come.
/// The file appears at its path with [`finish`](Self::finish), whole; dropped before, nothing is left.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: AtomicFile,
    /// Where the file's cursor is.
    position: u64,
    slots: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    next: u64,
    end: u64,
}

impl SafetensorsWriter {
    /// Begins the file `path` for exactly `tensors`, laid out as the safetensors library does it: the dtype of
    /// the largest alignment first, then by name. `metadata` becomes the header's `__metadata__`; other
    /// programs expect `("format", "pt")` in it.
    ///
    /// # Errors
    /// Two tensors of one name, sizes that overflow, or a file that cannot be made.
    pub fn create(
        path: &Path,
        tensors: &[TensorSpec],
        metadata: &[(&str, &str)],
    ) -> Result<Self, WeightsError> {
        let refuse = |problem| WeightsError::Write { path: path.to_path_buf(), problem };
        let mut sorted: Vec<_> =
            tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice())).collect();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let (head, offsets, total) = header::build(&sorted, metadata).map_err(refuse)?;
        let mut slots = BTreeMap::new();
        let ends = offsets.iter().skip(1).copied().chain([total]);
        for ((&(name, ..), &next), end) in sorted.iter().zip(&offsets).zip(ends) {
            if name == header::METADATA_KEY {
                return Err(refuse(format!("no tensor may be called {name}")));
            }
            if slots.insert(name.to_string(), Slot { next, end }).is_some() {
                return Err(refuse(format!("there are two tensors called {name}")));
            }
        }
        let mut file = AtomicFile::create(path)?;
        file.write_all(&head).map_err(WeightsError::io("write", path))?;
        Ok(Self { path: path.to_path_buf(), file, position: head.len() as u64, slots })
    }

    /// Appends `bytes` (row-major, little-endian) to the tensor `name`. A tensor may come in any number of
    /// pieces, and tensors in any order.
    ///
    /// # Errors
    /// The file has no such tensor, the tensor would get more bytes than it has, or the disk fails.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let Some(slot) = self.slots.get_mut(name) else {
            return Err(self.refuse(format!("it was begun without a tensor called {name}")));
        };
        let room = slot.end - slot.next;
        if bytes.len() as u64 > room {
            let problem =
                format!("tensor {name} has room for {room} more bytes but was given {}", bytes.len());
            return Err(self.refuse(problem));
        }
        if self.position != slot.next {
            self.file.seek(SeekFrom::Start(slot.next)).map_err(WeightsError::io("write", &self.path))?;
        }
        self.file.write_all(bytes).map_err(WeightsError::io("write", &self.path))?;
        slot.next += bytes.len() as u64;
        self.position = slot.next;
        Ok(())
    }

    /// Forces the file to the disk and gives it its name.
    ///
    /// # Errors
    /// A tensor lacks bytes (it is named), or the disk fails; the path is then as it was.
    pub fn finish(self) -> Result<(), WeightsError> {
        if let Some((name, slot)) = self.slots.iter().find(|(_, slot)| slot.next != slot.end) {
            return Err(self.refuse(format!("tensor {name} lacks its last {} bytes", slot.end - slot.next)));
        }
        self.file.commit()
    }

    fn refuse(&self, problem: String) -> WeightsError {
        WeightsError::Write { path: self.path.clone(), problem }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;

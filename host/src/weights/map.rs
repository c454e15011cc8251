//! Files mapped into memory, and slices of them that live as long as anyone needs them.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;

use super::error::WeightsError;

/// A whole file, mapped read-only. Pages come from disk when they are first touched.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
    modified: Option<SystemTime>,
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// The path is missing, is not a regular file, is empty, or cannot be read or mapped.
    pub fn open(path: &Path) -> Result<Arc<Self>, WeightsError> {
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        let found = fs::metadata(path).map_err(WeightsError::io("read", path))?;
        if found.is_dir() {
            return Err(WeightsError::unusable(path, "is a folder where a file was expected"));
        }
        if !found.is_file() {
            return Err(WeightsError::unusable(path, "is not a regular file"));
        }
        let file = File::open(path).map_err(WeightsError::io("open", path))?;
        let meta = file.metadata().map_err(WeightsError::io("read", path))?;
        if meta.len() == 0 {
            return Err(WeightsError::unusable(path, "is empty; it was probably not downloaded to the end"));
        }
        let map = map_file(&file).map_err(WeightsError::io("map", path))?;
        Ok(Arc::new(Self { path: path.to_path_buf(), map, modified: meta.modified().ok() }))
    }

    /// Where the file was when it was mapped.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// Whether the file still has the length and modification time it had when it was mapped.
    ///
    /// To be asked before a long read and after it: a file that somebody shortened or rewrote is then
    /// reported instead of being used. A file that was replaced by renaming another over it is reported too,
    /// though the mapping still holds the old, whole content.
    ///
    /// # Errors
    /// [`WeightsError::Changed`] says what is different; the file may also be gone.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        let meta = fs::metadata(&self.path).map_err(WeightsError::io("read", &self.path))?;
        let before = self.map.len() as u64;
        let change = if meta.len() != before {
            format!("it had {before} bytes and has {}", meta.len())
        } else if meta.modified().ok() != self.modified {
            "its modification time is different".to_string()
        } else {
            return Ok(());
        };
        Err(WeightsError::Changed { path: self.path.clone(), change })
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and read as bytes, for which every bit pattern is valid. What cannot be
    // ruled out is another program that writes to the file or shortens it meanwhile: then the bytes change
    // under us, or reading them ends the process with SIGBUS. Nothing of ours does that (every file is
    // written aside and renamed over, which leaves a mapped one as it was), headers are copied out before
    // they are checked, so no bound that was checked can change, and `check_unchanged` finds it out.
    unsafe { Mmap::map(file) }
}

/// Part of a mapped file. Cheap to clone; keeps the mapping alive, so a back end can borrow the bytes for as
/// long as it needs them.
#[derive(Debug, Clone)]
pub struct MappedBytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl MappedBytes {
    /// The bytes `range` of `file`; `None` if it does not have them.
    pub fn new(file: Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        file.as_slice().get(range.clone())?;
        Some(Self { file, range })
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.file.as_slice()[self.range.clone()]
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The file they are part of.
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

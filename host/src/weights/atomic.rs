//! Files and folders that appear whole or not at all.
//!
//! Both are written aside, under a hidden name in the same folder (so that renaming does not copy), forced to
//! the disk, and renamed. Killed at any instant, the final path holds the old content, the new, or, if a
//! folder was just being swapped for another, nothing, with the old one beside it; [`recover`] puts it back.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::WeightsError;

const TEMPORARY: &str = "tmp";
const REPLACED: &str = "old";

/// A file that is written aside and takes its place with [`commit`](Self::commit). Dropped before, it is gone.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<File>,
    aside: Aside,
}

impl AtomicFile {
    /// Begins a file that will be at `path`, whose folder must exist.
    ///
    /// # Errors
    /// The folder is missing or cannot be written to.
    pub fn create(path: &Path) -> Result<Self, WeightsError> {
        let aside = Aside::new(path)?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&aside.path)
            .map_err(WeightsError::io("create", &aside.path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), aside })
    }

    /// Forces the content to the disk and renames it to its final path, over whatever file is there.
    ///
    /// # Errors
    /// The disk is full or fails; the final path is then as it was.
    pub fn commit(self) -> Result<(), WeightsError> {
        let Self { file, mut aside } = self;
        let file =
            file.into_inner().map_err(|error| WeightsError::io("write", &aside.path)(error.into_error()))?;
        file.sync_all().map_err(WeightsError::io("write", &aside.path))?;
        drop(file);
        fs::rename(&aside.path, &aside.target).map_err(WeightsError::io("write", &aside.target))?;
        aside.done = true;
        sync_dir(parent(&aside.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Writes `bytes` to `path` as a whole.
///
/// # Errors
/// As [`AtomicFile`]'s; the path is then as it was.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(WeightsError::io("write", path))?;
    file.commit()
}

/// A folder that is filled aside and takes its place with [`commit`](Self::commit). Dropped before, it is
/// gone with all that is in it.
#[derive(Debug)]
pub struct AtomicDir {
    aside: Aside,
}

impl AtomicDir {
    /// Begins a folder that will be at `path`; folders above it are made as needed.
    ///
    /// # Errors
    /// There is something at `path` that is no folder, or the folder above cannot be written to.
    pub fn create(path: &Path) -> Result<Self, WeightsError> {
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir()) {
            return Err(WeightsError::unusable(path, "is there already and is not a folder"));
        }
        create_dirs(parent(path))?;
        let aside = Aside::new(path)?;
        fs::create_dir(&aside.path).map_err(WeightsError::io("create", &aside.path))?;
        Ok(Self { aside })
    }

    /// Where to put the files until then.
    pub fn path(&self) -> &Path {
        &self.aside.path
    }

    /// Where the folder will be.
    pub fn target(&self) -> &Path {
        &self.aside.target
    }

    /// Forces everything in it to the disk and renames it to its final path. A folder that is there already
    /// is moved aside first and removed after.
    ///
    /// # Errors
    /// The disk is full or fails; the final path is then as it was.
    pub fn commit(mut self) -> Result<(), WeightsError> {
        sync_tree(&self.aside.path)?;
        let target = self.aside.target.clone();
        let replaced =
            fs::symlink_metadata(&target).is_ok().then(|| sibling(&target, REPLACED)).transpose()?;
        if let Some(replaced) = &replaced {
            fs::rename(&target, replaced).map_err(WeightsError::io("replace", &target))?;
        }
        if let Err(error) = fs::rename(&self.aside.path, &target) {
            if let Some(replaced) = &replaced {
                // Should this fail too, `recover` can still do it.
                let _ = fs::rename(replaced, &target);
            }
            return Err(WeightsError::io("write", &target)(error));
        }
        self.aside.done = true;
        sync_dir(parent(&target))?;
        match replaced {
            Some(replaced) => fs::remove_dir_all(&replaced).map_err(WeightsError::io("remove", &replaced)),
            None => Ok(()),
        }
    }
}

/// Makes a folder and those above it as needed, and forces their names to the disk: a file that is synced in a folder
/// that is not can be lost with it.
///
/// # Errors
/// One cannot be made.
pub fn create_dirs(path: &Path) -> Result<(), WeightsError> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()).collect();
    fs::create_dir_all(path).map_err(WeightsError::io("create", path))?;
    missing.into_iter().rev().try_for_each(|folder| sync_dir(parent(folder)))
}

/// Clears what a killed process left beside `path`: a folder that was moved aside to be replaced is put back
/// if nothing has taken its place, everything else that was written aside for `path` is removed.
///
/// Only for the one process that owns `path`: it would take the work of another that is just writing it.
///
/// # Errors
/// The folder above cannot be listed or changed. A folder above that does not exist has nothing to recover.
pub fn recover(path: &Path) -> Result<(), WeightsError> {
    let above = parent(path);
    let entries = match fs::read_dir(above) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(WeightsError::io("list", above)(error)),
    };
    let (replaced, temporary) = (prefix(path, REPLACED)?, prefix(path, TEMPORARY)?);
    for entry in entries {
        let entry = entry.map_err(WeightsError::io("list", above))?;
        let (name, left) = (entry.file_name(), entry.path());
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(replaced.as_encoded_bytes()) && fs::symlink_metadata(path).is_err() {
            fs::rename(&left, path).map_err(WeightsError::io("put back", path))?;
        } else if [&replaced, &temporary].iter().any(|prefix| bytes.starts_with(prefix.as_encoded_bytes())) {
            remove(&left).map_err(WeightsError::io("remove", &left))?;
        }
    }
    sync_dir(above)
}

/// A path beside the target, removed on drop unless it took the target's place.
#[derive(Debug)]
struct Aside {
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Aside {
    fn new(target: &Path) -> Result<Self, WeightsError> {
        Ok(Self { path: sibling(target, TEMPORARY)?, target: target.to_path_buf(), done: false })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.done {
            // An error here has nobody to go to, and `recover` removes what is left.
            let _ = remove(&self.path);
        }
    }
}

/// `.NAME.KIND-PID-N` beside `target`: no other process and no other call has it. A killed process may have left
/// one that had the same number, as the first process of a container always has.
fn sibling(target: &Path, kind: &str) -> Result<PathBuf, WeightsError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let prefix = prefix(target, kind)?;
    loop {
        let mut name = prefix.clone();
        name.push(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let path = parent(target).join(name);
        if fs::symlink_metadata(&path).is_err() {
            return Ok(path);
        }
    }
}

fn prefix(target: &Path, kind: &str) -> Result<OsString, WeightsError> {
    let file_name =
        target.file_name().ok_or_else(|| WeightsError::unusable(target, "does not end in a name"))?;
    let mut name = OsString::from(".");
    name.push(file_name);
    name.push(format!(".{kind}-"));
    Ok(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn sync_tree(dir: &Path) -> Result<(), WeightsError> {
    for entry in fs::read_dir(dir).map_err(WeightsError::io("list", dir))? {
        let entry = entry.map_err(WeightsError::io("list", dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(WeightsError::io("read", &path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows flushes only what is open for writing.
            let file = File::options().read(true).write(cfg!(windows)).open(&path);
            file.and_then(|file| file.sync_all()).map_err(WeightsError::io("write", &path))?;
        }
    }
    sync_dir(dir)
}

/// Forces the names in `dir` to the disk. Windows has no such call: there, renaming itself has to do.
fn sync_dir(dir: &Path) -> Result<(), WeightsError> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(WeightsError::io("write", dir))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "atomic_tests.rs"]
mod tests;

//! What a user gives as `--model`, in whichever form it is.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::WeightsError;
use super::folder::ModelFolder;
use super::gguf::Gguf;
use super::tensors::Tensors;

/// A model on disk: a Hugging Face folder, a `config.json` alone, or a GGUF file. All of them have a config and,
/// but for the second, tensors under Hugging Face's names.
#[derive(Debug)]
pub enum ModelFiles {
    /// A folder, or a `config.json` without weights.
    Folder(ModelFolder),
    /// A GGUF file.
    Gguf(Arc<Gguf>),
}

impl ModelFiles {
    /// Opens what a user gives as a model.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`] and [`Gguf::open`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        match is_gguf(path) {
            true => Gguf::open(path).map(|gguf| Self::Gguf(Arc::new(gguf))),
            false => ModelFolder::open(path).map(Self::Folder),
        }
    }

    /// The config.
    pub fn config(&self) -> &Map<String, Value> {
        match self {
            Self::Folder(folder) => folder.config(),
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    /// The weights; `None` if the model starts from random ones.
    pub fn tensors(&self) -> Option<&Tensors> {
        match self {
            Self::Folder(folder) => folder.tensors(),
            Self::Gguf(gguf) => Some(gguf.tensors()),
        }
    }

    /// The folder that holds the tokenizer and other side files; a GGUF file has all of it inside.
    pub fn side_dir(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder.dir()),
            Self::Gguf(_) => None,
        }
    }

    /// Where the model is, for sentences: its folder or file.
    pub fn place(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.dir(),
            Self::Gguf(gguf) => gguf.path(),
        }
    }

    /// Every file that decides what the model computes, each once.
    pub fn files(&self) -> Vec<PathBuf> {
        let weights = self.tensors().into_iter().flat_map(Tensors::files).map(Path::to_owned);
        match self {
            Self::Folder(folder) => weights.chain([folder.config_path().to_owned()]).collect(),
            Self::Gguf(_) => weights.collect(),
        }
    }
}

/// Whether a path is to be read as a GGUF file: by its name or, whatever it is called, by its first letters.
pub fn is_gguf(path: &Path) -> bool {
    // Nothing but a regular file is opened: a named pipe would wait for a writer.
    if !path.is_file() {
        return false;
    }
    let begins = || {
        let mut start = [0; 4];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"GGUF"
    };
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) || begins()
}

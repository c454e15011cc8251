//! GGUF files, which hold config, tensors and tokenizer in one: read, not written.
//!
//! [`Gguf::open`] checks the header and gives what a Hugging Face folder would: a config, and tensors under
//! Hugging Face's names, shapes and order of rows. Quantized tensors stay as they are in the mapped file and
//! are dequantized piece by piece where they are read ([`convert_range`](super::convert::convert_range)).

mod header;
mod kind;
mod llama;
mod metadata;
mod reader;
mod rope;
#[cfg(test)]
pub(crate) mod testing;
mod value;
mod vocabulary;

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::error::WeightsError;
use super::map::MappedFile;
use super::tensors::Tensors;
use metadata::Metadata;

pub use vocabulary::{TokenKind, Vocabulary};

/// A GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: std::path::PathBuf,
    metadata: Metadata,
    config: Map<String, Json>,
    tensors: Tensors,
}

impl Gguf {
    /// Maps the file at `path` and checks all of it but the elements of its tensors.
    ///
    /// # Errors
    /// The file cannot be read; it is no sound GGUF file; its model is not one that is read.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = MappedFile::open(path)?;
        let refuse = |problem| WeightsError::Gguf { path: path.to_path_buf(), problem };
        let header = header::parse(file.as_slice()).map_err(refuse)?;
        let (config, places) = llama::model(&header, file.as_slice()).map_err(refuse)?;
        let tensors = Tensors::in_file(file, places);
        Ok(Self { path: path.to_path_buf(), metadata: header.metadata, config, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a Hugging Face folder of the same model has in `config.json`.
    pub fn config(&self) -> &Map<String, Json> {
        &self.config
    }

    /// The tensors, under Hugging Face's names.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    fn error(&self, problem: String) -> WeightsError {
        WeightsError::Gguf { path: self.path.clone(), problem }
    }
}

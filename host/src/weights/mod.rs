//! Weights on disk: Hugging Face model folders and PEFT adapters, read and written; GGUF files, read.
//!
//! This room knows file formats. It does not know back ends (bytes leave it as [`MappedBytes`] or as
//! converted ranges, for whoever uploads them) and it does not know architectures (which tensors a model
//! needs, and of which shape, is asked for through [`Tensors::require`]).
//!
//! - [`ModelFiles::open`] takes what a user gives as `--model`: a [`ModelFolder`] or a [`gguf::Gguf`] file;
//! - [`Tensors`] and [`TensorView`] are its mapped tensors;
//! - [`convert`](convert::convert) and [`convert_range`](convert::convert_range) change the dtype;
//! - [`SafetensorsWriter`] and [`ModelWriter`] write files and folders without holding a model;
//! - [`peft`] reads and writes LoRA adapters in PEFT's format;
//! - [`atomic`] makes files and folders appear whole or not at all.
//!
//! Everything read here comes from strangers. A size that a file claims is compared with the size that the
//! file has before anything is done with it, and nothing is allocated by a claimed size.

pub mod atomic;
mod blocks;
pub mod convert;
mod dtype;
mod error;
mod folder;
pub mod gguf;
mod header;
mod index;
mod json;
mod map;
mod model;
pub mod peft;
mod save;
mod tensors;
mod writer;

#[cfg(test)]
mod testing;

pub use blocks::BlockFormat;
pub use dtype::{Encoding, StoredDType, WeightDType};
pub use error::WeightsError;
pub use folder::ModelFolder;
pub use map::{MappedBytes, MappedFile};
pub use model::{ModelFiles, is_gguf};
pub use save::{DEFAULT_MAX_SHARD_BYTES, ModelWriter, copy_side_files, set_config_dtype, write_config};
pub use tensors::{TensorView, Tensors};
pub use writer::{SafetensorsWriter, TensorSpec};

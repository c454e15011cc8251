//! What the tests of this room share.

use std::fs;
use std::path::Path;

/// A safetensors file from a header and data, neither of which need to be right.
pub(super) fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A sound safetensors file of f32 tensors, made by the safetensors library.
pub(super) fn f32_file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., values)| f32_bytes(values)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn put(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(dir.join(name), content).unwrap();
}

/// The message of the error that `result` must be, which must hold every one of `parts`.
#[track_caller]
pub(super) fn refused<T>(result: Result<T, impl std::fmt::Display>, parts: &[&str]) -> String {
    let Err(error) = result else { panic!("was accepted, but should be refused with {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    message
}

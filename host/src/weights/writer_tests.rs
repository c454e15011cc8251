use std::fs;

use proptest::prelude::*;
use safetensors::SafeTensors;
use tempfile::tempdir;

use super::*;
use crate::weights::testing::refused;

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("b", WeightDType::BF16, [3]),
        TensorSpec::new("a", WeightDType::F32, [2, 2]),
        TensorSpec::new("scalar", WeightDType::F32, []),
        TensorSpec::new("none", WeightDType::F16, [0]),
    ]
}

fn files_in(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// The safetensors library reads what is written: in pieces, in any order, with its own bytes as the measure.
#[test]
fn library_reads_the_file() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let (a, b, s): (Vec<u8>, Vec<u8>, Vec<u8>) = ((0..16).collect(), (20..26).collect(), (30..34).collect());
    let mut writer = SafetensorsWriter::create(&path, &specs(), &[("format", "pt")]).unwrap();
    writer.write("b", &b[..5]).unwrap();
    writer.write("a", &a[..3]).unwrap();
    writer.write("scalar", &s).unwrap();
    writer.write("b", &b[5..]).unwrap();
    writer.write("a", &a[3..]).unwrap();
    assert!(!path.exists(), "the file must not be there before it is whole");
    writer.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.tensor("a").unwrap().data(), a);
    assert_eq!(read.tensor("b").unwrap().data(), b);
    assert_eq!(read.tensor("b").unwrap().dtype(), safetensors::Dtype::BF16);
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let views: Vec<_> = read.tensors();
    assert_eq!(bytes, safetensors::serialize(views, Some(metadata)).unwrap());
    assert_eq!(files_in(dir.path()), 1);
}

/// Wrong use is an error that names the tensor, and leaves an older file as it was.
#[test]
fn incomplete_file_does_not_appear() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    fs::write(&path, "older").unwrap();
    let mut writer = SafetensorsWriter::create(&path, &specs(), &[]).unwrap();
    refused(writer.write("c", &[0]), &["without a tensor called c"]);
    refused(writer.write("a", &[0; 17]), &["tensor a", "16 more bytes", "17"]);
    writer.write("a", &[0; 16]).unwrap();
    writer.write("scalar", &[0; 4]).unwrap();
    writer.write("b", &[0; 4]).unwrap();
    refused(writer.finish(), &["tensor b lacks its last 2 bytes"]);
    assert_eq!(fs::read(&path).unwrap(), b"older");
    assert_eq!(files_in(dir.path()), 1, "the file aside must be gone");
}

/// What could not be read back is not begun.
#[test]
fn impossible_files_are_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let spec = |name: &str, shape: &[usize]| TensorSpec::new(name, WeightDType::F32, shape);
    refused(
        SafetensorsWriter::create(&path, &[spec("a", &[1]), spec("a", &[2])], &[]),
        &["two tensors called a"],
    );
    refused(
        SafetensorsWriter::create(&path, &[spec("a", &[usize::MAX, 2])], &[]),
        &["tensor a", "too large"],
    );
    refused(SafetensorsWriter::create(&path, &[spec("__metadata__", &[1])], &[]), &["__metadata__"]);
    refused(SafetensorsWriter::create(&dir.path().join("no/m.safetensors"), &[], &[]), &["cannot create"]);
    assert_eq!(files_in(dir.path()), 0);
}

proptest! {
    /// Any names and shapes: the library reads back every tensor's bytes.
    #[test]
    fn written_tensors_are_read_back(
        tensors in prop::collection::btree_map(
            "\\PC{1,10}",
            (prop::sample::select(vec![WeightDType::F16, WeightDType::BF16, WeightDType::F32]), prop::collection::vec(0usize..4, 0..3)),
            0..6,
        ),
    ) {
        let dir = tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let specs: Vec<_> = tensors.iter().map(|(name, (dtype, shape))| TensorSpec::new(name, *dtype, shape.clone())).collect();
        let mut writer = SafetensorsWriter::create(&path, &specs, &[("format", "pt")]).unwrap();
        let content = |at: usize, spec: &TensorSpec| vec![at as u8 + 1; spec.byte_size().unwrap() as usize];
        for (at, spec) in specs.iter().enumerate() {
            writer.write(&spec.name, &content(at, spec)).unwrap();
        }
        writer.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(read.len(), specs.len());
        for (at, spec) in specs.iter().enumerate() {
            let tensor = read.tensor(&spec.name).unwrap();
            prop_assert_eq!(tensor.shape(), &spec.shape);
            prop_assert_eq!(tensor.data(), content(at, spec));
        }
    }
}

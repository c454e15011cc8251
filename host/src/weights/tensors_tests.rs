use std::fs;

use proptest::prelude::*;
use serde_json::json;
use tempfile::tempdir;

use super::*;
use crate::weights::StoredDType;
use crate::weights::testing::{f32_bytes, f32_file, put, raw_file, refused};

fn model(dir: &Path) -> Tensors {
    let file = f32_file(&[
        ("model.embed.weight", &[2, 2], &[1., 2., 3., 4.]),
        ("model.norm.weight", &[2], &[5., 6.]),
    ]);
    put(dir, "model.safetensors", file);
    Tensors::open_file(&dir.join("model.safetensors")).unwrap()
}

/// A tensor's bytes are those in the file, and outlive the collection they came from, on any thread.
#[test]
fn views_own_their_bytes() {
    let dir = tempdir().unwrap();
    let tensors = model(dir.path());
    assert_eq!(tensors.names().collect::<Vec<_>>(), ["model.embed.weight", "model.norm.weight"]);
    let view = tensors.require("model.norm.weight", &[2]).unwrap();
    let bytes = view.bytes().clone();
    drop((tensors, view));
    let read = std::thread::spawn(move || bytes.as_slice().to_vec()).join().unwrap();
    assert_eq!(read, f32_bytes(&[5., 6.]));
}

/// A missing tensor is named with the place it was looked for and the name that was probably meant.
#[test]
fn missing_tensor_names_the_closest() {
    let dir = tempdir().unwrap();
    let tensors = model(dir.path());
    refused(
        tensors.require("model.norm.wieght", &[2]),
        &["model.norm.wieght is missing", "model.safetensors", "closest name there is model.norm.weight"],
    );
    refused(tensors.require("norm.weight", &[2]), &["closest name there is model.norm.weight"]);
    let message = refused(tensors.require("zzz", &[2]), &["zzz is missing"]);
    assert!(!message.contains("closest"), "{message}");
}

/// A tensor of another shape is refused with both shapes, also where the number of elements agrees.
#[test]
fn misshapen_tensor_says_both_shapes() {
    let dir = tempdir().unwrap();
    refused(model(dir.path()).require("model.embed.weight", &[4, 1]), &["embed.weight", "[2, 2]", "[4, 1]"]);
}

/// Integers beside the weights do no harm until they are asked for as weights.
#[test]
fn integer_tensor_is_refused_as_weight() {
    let dir = tempdir().unwrap();
    let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    put(dir.path(), "m.safetensors", raw_file(header, &[0; 8]));
    let tensors = Tensors::open_file(&dir.path().join("m.safetensors")).unwrap();
    assert_eq!(tensors.get("ids").unwrap().encoding(), Encoding::Plain(StoredDType::I64));
    refused(tensors.require("ids", &[1]), &["tensor ids", "m.safetensors", "I64"]);
}

/// An empty file, a folder and a missing file are said to be that.
#[test]
fn what_is_no_file_is_refused() {
    let dir = tempdir().unwrap();
    put(dir.path(), "empty.safetensors", "");
    refused(Tensors::open_file(&dir.path().join("empty.safetensors")), &["is empty"]);
    refused(Tensors::open_file(dir.path()), &["is a folder"]);
    refused(Tensors::open_file(&dir.path().join("none.safetensors")), &["cannot read", "none.safetensors"]);
}

/// A file that somebody shortens or rewrites after it was mapped is reported.
#[test]
fn changed_file_is_reported() {
    let dir = tempdir().unwrap();
    let tensors = model(dir.path());
    tensors.check_unchanged().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(1 << 16).unwrap();
    refused(tensors.check_unchanged(), &["was changed while it was in use", "65536"]);
}

fn shards(dir: &Path, index: serde_json::Value) -> Result<Tensors, WeightsError> {
    put(dir, "1.safetensors", f32_file(&[("a", &[1], &[1.])]));
    put(dir, "2.safetensors", f32_file(&[("b", &[1], &[2.]), ("c", &[1], &[3.])]));
    put(dir, "model.safetensors.index.json", index.to_string());
    Tensors::open_index(&dir.join("model.safetensors.index.json"))
}

/// Shards are mapped once each, whatever the index's order and total size say.
#[test]
fn index_joins_shards() {
    let dir = tempdir().unwrap();
    let map = json!({ "b": "2.safetensors", "a": "1.safetensors", "c": "2.safetensors" });
    let tensors = shards(dir.path(), json!({ "metadata": { "total_size": 1 }, "weight_map": map })).unwrap();
    assert_eq!(tensors.files().len(), 2);
    assert_eq!(tensors.len(), 3);
    assert_eq!(tensors.get("c").unwrap().bytes().as_slice(), f32_bytes(&[3.]));
    refused(tensors.require("d", &[1]), &["2 file(s)", "model.safetensors.index.json"]);
}

/// An index that contradicts the files or leads out of its folder is refused, naming tensor and shard.
#[test]
fn unsound_index_is_refused() {
    let dir = tempdir().unwrap();
    let open = |map: serde_json::Value| shards(dir.path(), json!({ "weight_map": map }));
    refused(open(json!({ "a": "3.safetensors" })), &["tensor a", "3.safetensors", "no such file"]);
    refused(open(json!({ "a": "2.safetensors" })), &["tensor a", "2.safetensors", "not in that file"]);
    let absolute = dir.path().join("1.safetensors").display().to_string();
    for outside in
        ["../1.safetensors", "x/../../1.safetensors", absolute.as_str(), "..\\1.safetensors", "", "./."]
    {
        refused(open(json!({ "a": outside })), &["tensor a", "not a path inside"]);
    }
    refused(open(json!({ "a": "1.bin" })), &["1.bin", "not a .safetensors file"]);
    refused(open(json!({})), &["names no tensor"]);
    refused(open(json!({ "a": 1 })), &["line 1, column", "\"a\""]);
    refused(shards(dir.path(), json!({})), &["weight_map"]);
    put(dir.path(), "i.json", r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#);
    refused(Tensors::open_index(&dir.path().join("i.json")), &["\"a\" comes twice"]);
}

proptest! {
    /// An index is parsed or refused, whatever its bytes; accepted shards stay inside the folder.
    #[test]
    fn random_index_never_panics(shard in "[./\\\\a-c:]{0,12}(.safetensors)?", noise in prop::collection::vec(any::<u8>(), 0..60)) {
        let path = Path::new("index.json");
        let _ = index::parse(&noise, path);
        let text = json!({ "weight_map": { "t": shard } }).to_string();
        if let Ok(map) = index::parse(text.as_bytes(), path) {
            prop_assert!(!map[0].1.contains("..") || !map[0].1.split('/').any(|part| part == ".."));
            prop_assert!(!map[0].1.starts_with('/'));
        }
    }
}

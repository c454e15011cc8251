use tempfile::tempdir;

use super::*;
use crate::weights::testing::{f32_file, put, refused};

fn weights() -> Vec<u8> {
    f32_file(&[("w", &[1], &[1.])])
}

/// A folder with config and weights opens; its side files are found.
#[test]
fn folder_opens() {
    let dir = tempdir().unwrap();
    put(dir.path(), "config.json", r#"{"model_type":"llama"}"#);
    put(dir.path(), "model.safetensors", weights());
    let model = ModelFolder::open(dir.path()).unwrap();
    assert_eq!(model.config()["model_type"], "llama");
    assert!(model.tensors().unwrap().contains("w"));
    assert_eq!(model.dir(), dir.path());
}

/// The path of a config means random weights, even where weights lie beside it; the tokenizer beside it counts.
#[test]
fn config_alone_means_random_weights() {
    let dir = tempdir().unwrap();
    put(dir.path(), "config.json", "{}");
    put(dir.path(), "model.safetensors", weights());
    let model = ModelFolder::open(&dir.path().join("config.json")).unwrap();
    assert!(model.tensors().is_none());
    assert_eq!(model.dir(), dir.path(), "where the tokenizer is looked for");
}

/// A single weight file of another name is taken; an adapter's beside it does not make two; of two that are
/// weights, none is guessed.
#[test]
fn differently_named_weights() {
    let dir = tempdir().unwrap();
    put(dir.path(), "config.json", "{}");
    put(dir.path(), "my.safetensors", weights());
    put(dir.path(), "adapter_model.safetensors", weights());
    let model = ModelFolder::open(dir.path()).unwrap();
    assert!(model.tensors().unwrap().files().next().unwrap().ends_with("my.safetensors"));
    put(dir.path(), "other.safetensors", weights());
    refused(ModelFolder::open(dir.path()), &["2 .safetensors files", "index.json"]);
}

/// Everything that is no usable model is refused with what to do.
#[test]
fn folders_that_are_no_model() {
    let config = ("config.json", &b"{}"[..]);
    let index = r#"{"weight_map":{"w":"model-1.safetensors"}}"#.as_bytes();
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: &[(Files, &[&str])] = &[
        (&[config], &["no weights", "random weights", "config.json itself"]),
        (&[config, ("pytorch_model.bin", b"x")], &["pytorch_model.bin", "pickle", "safe_serialization=True"]),
        (&[config, ("consolidated.00.pth", b"x")], &["consolidated.00.pth", "pickle"]),
        (&[config, ("model.pt", b"x")], &["model.pt", "pickle"]),
        (&[config, ("training_args.bin", b"x")], &["no weights"]),
        (&[config, ("m.gguf", b"GGUF")], &["m.gguf", "GGUF", "give the file itself"]),
        (&[config, ("model.safetensors.index.json", index)], &["model-1.safetensors", "no such file"]),
        (&[config, ("model.safetensors", b"")], &["model.safetensors is empty"]),
        (
            &[config, ("model.safetensors", b"0123456789")],
            &["model.safetensors is not a usable safetensors file"],
        ),
        (&[("model.safetensors", b"x")], &["has no config.json"]),
        (&[("pytorch_model.bin", b"x")], &["pickle"]),
        (&[("m.gguf", b"x")], &["GGUF"]),
        (&[("adapter_config.json", b"{}")], &["is an adapter", "--adapter"]),
        (&[("config.json", b"{\n  \"a\": 1,\n}")], &["config.json", "line 3, column 1"]),
        (&[("config.json", b"[]")], &["not an object"]),
        (&[("config.json", b"")], &["is empty"]),
        (&[("config.json", b"\xff{}")], &["config.json", "line 1"]),
    ];
    for (files, expected) in cases {
        let dir = tempdir().unwrap();
        files.iter().for_each(|(name, content)| put(dir.path(), name, content));
        refused(ModelFolder::open(dir.path()), expected);
    }
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("config.json")).unwrap();
    refused(ModelFolder::open(dir.path()), &["config.json is a folder"]);
}

/// Files that are no config are refused by what they are, without being read.
#[test]
fn files_that_are_no_config() {
    let dir = tempdir().unwrap();
    for (name, expected) in [
        ("m.gguf", "GGUF"),
        ("pytorch_model.bin", "pickle"),
        ("m.pt", "pickle"),
        ("model.safetensors", "give the folder"),
        ("model.safetensors.index.json", "give the folder"),
        ("adapter_config.json", "--adapter"),
        ("notes.txt", "neither a model's folder nor a GGUF file nor a config.json"),
    ] {
        put(dir.path(), name, "x");
        refused(ModelFolder::open(&dir.path().join(name)), &[name, expected]);
    }
}

/// A path that is not there: a hub id gets advice on downloading, another path does not.
#[test]
fn missing_paths() {
    refused(
        ModelFolder::open(Path::new("no-such-org/Model-1.5B")),
        &["downloading from the hub", "--local-dir"],
    );
    for path in ["/no/such", "./no-such/model", "a/b/c", "../no-such", "no-such", "no-such-org/config.json"] {
        refused(ModelFolder::open(Path::new(path)), &[path, "does not exist"]);
    }
}

//! Bad input is answered with a sentence that says what, where and what to do; never with a panic.

use std::path::{Path, PathBuf};

use finetune_tests::{fail, finetune, goldens, plugins};
use serde_json::{Value, json};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A copy of a golden model that may be damaged, beside a good data file.
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        for entry in std::fs::read_dir(goldens().join("llama2/model")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join("model").join(path.file_name().unwrap())).unwrap();
        }
        std::fs::copy(goldens().join("text/train.jsonl"), dir.path().join("data.jsonl")).unwrap();
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("model/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// The message with which training on a model is refused; it has every one of these words, and is no panic.
    #[track_caller]
    fn refused(&self, model: &Path, extra: &[&str], words: &[&str]) {
        let mut command = finetune(["train", "--backend", "cpu", "--steps", "1", "--seq-len", "16"]);
        command.arg("--model").arg(model).arg("--data").arg(self.path("data.jsonl"));
        command.arg("--out").arg(self.path("run")).arg("--plugins").arg(plugins()).args(extra);
        let message = fail(&mut command);
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
    }
}

#[test]
fn models_that_cannot_be_used() {
    let place = Place::new();
    let model = place.path("model");
    place.refused(Path::new("some-org/some-model"), &[], &["some-org/some-model", "hub"]);
    place.refused(&place.path("nowhere"), &[], &["nowhere"]);
    place.config(|config| config["model_type"] = json!("rwkv"));
    place.refused(&model, &[], &["rwkv", "llama", "gpt2", "mistral"]);
    place.config(|config| {
        config["model_type"] = json!("llama");
        config["intermediate_size"] = json!(7);
    });
    place.refused(&model, &[], &["mlp.", "7]", "expected"]);
    place.config(|config| config["intermediate_size"] = json!("many"));
    place.refused(&model, &[], &["intermediate_size", "many"]);
    std::fs::write(place.path("model/config.json"), "{\"model_type\": ").unwrap();
    place.refused(&model, &[], &["config.json"]);
}

#[test]
fn a_cut_or_missing_weight_file() {
    let place = Place::new();
    let (model, weights) = (place.path("model"), place.path("model/model.safetensors"));
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    place.refused(&model, &[], &["model.safetensors"]);
    std::fs::remove_file(&weights).unwrap();
    place.refused(&model, &[], &["config.json", "random"]);
    std::fs::write(place.path("model/pytorch_model.bin"), "x").unwrap();
    place.refused(&model, &[], &["pytorch_model.bin", "safe_serialization"]);
}

#[test]
fn a_model_with_a_layer_more_in_its_config_names_the_missing_tensor() {
    let place = Place::new();
    place.config(|config| {
        config["num_hidden_layers"] = json!(config["num_hidden_layers"].as_u64().unwrap() + 1)
    });
    place.refused(&place.path("model"), &[], &["model.layers.2.", "model.safetensors"]);
}

#[test]
fn settings_that_cannot_be() {
    let place = Place::new();
    let model = place.path("model");
    place.refused(&model, &["--targets", "q_prj"], &["q_prj", "q_proj"]);
    place.refused(&model, &["--method", "full", "--rank", "4"], &["rank", "full"]);
    place.refused(&model, &["--beta1", "1.5"], &["beta1"]);
    place.refused(&model, &["--batch", "9223372036854775807"], &["batch", "16777216"]);
    place.refused(&model, &["--backend", "abacus"], &["abacus", "cpu"]);
    place.refused(&model, &["--backend", "cpu:7"], &["7"]);
    place.refused(&goldens().join("gpt2/model"), &["--seq-len", "100000"], &["100000", "positions"]);
}

#[test]
fn a_bad_row_names_file_and_line() {
    let place = Place::new();
    for (row, word) in
        [("{\"text\": 3}", "text"), ("{\"txet\": \"a\"}", "text"), ("{", "JSON"), ("[]", "object")]
    {
        std::fs::write(place.path("data.jsonl"), format!("{{\"text\": \"good\"}}\n\n{row}\n")).unwrap();
        place.refused(&place.path("model"), &[], &["data.jsonl", "3", word]);
    }
    std::fs::write(place.path("data.jsonl"), "").unwrap();
    place.refused(&place.path("model"), &[], &["data.jsonl"]);
}

/// Many tokenizers have a token that the model never got; that matters only if the data brings it up.
#[test]
fn a_token_beyond_the_vocabulary_is_refused_where_it_occurs() {
    let place = Place::new();
    let path = place.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let config: Value =
        serde_json::from_slice(&std::fs::read(place.path("model/config.json")).unwrap()).unwrap();
    let id = config["vocab_size"].as_u64().unwrap();
    let token = json!({"id": id, "content": "<late>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let mut good = finetune(["train", "--backend", "cpu", "--steps", "1", "--seq-len", "16", "--json"]);
    good.arg("--model").arg(place.path("model")).arg("--data").arg(place.path("data.jsonl"));
    finetune_tests::succeed(good.arg("--out").arg(place.path("good")).arg("--plugins").arg(plugins()));
    std::fs::write(place.path("data.jsonl"), "{\"text\": \"the <late> one\"}\n").unwrap();
    place.refused(&place.path("model"), &[], &[&format!("token {id}"), "vocabulary"]);
}

/// Devices are looked for and measured after that, which may take a minute: here there would be none.
#[test]
fn what_is_not_there_is_said_before_devices_are_looked_for() {
    let place = Place::new();
    let (model, data, none) = (place.path("model"), place.path("data.jsonl"), place.path("none"));
    let empty = place.path("plugins");
    std::fs::create_dir(&empty).unwrap();
    let said = |words: &[&std::ffi::OsStr]| {
        let message = fail(finetune(words).arg("--plugins").arg(&empty));
        assert!(message.contains(none.to_str().unwrap()), "{words:?}: {message}");
    };
    let word = std::ffi::OsStr::new;
    let [train, eval, generate] = ["train", "eval", "generate"].map(word);
    let [m, d, a, o, p] = ["--model", "--data", "--adapter", "--out", "--prompt"].map(word);
    let out = place.path("run");
    let [model, data, nowhere, out] = [&model, &data, &none, &out].map(|path| path.as_os_str());
    said(&[train, o, out, m, nowhere, d, data]);
    said(&[train, o, out, m, model, d, nowhere]);
    said(&[train, o, out, m, model, d, data, word("--valid"), nowhere]);
    said(&[eval, m, nowhere, d, data]);
    said(&[eval, m, model, d, nowhere]);
    said(&[eval, m, model, d, data, a, nowhere]);
    said(&[generate, m, nowhere, p, word("a")]);
    said(&[generate, m, model, p, word("a"), a, nowhere]);
}

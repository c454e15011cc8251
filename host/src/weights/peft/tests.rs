use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::*;
use crate::weights::testing::{f32_bytes, f32_file, put, refused};
use crate::weights::{WeightDType, WeightsError, convert};

const Q: &str = "model.layers.0.self_attn.q_proj";

/// A config as PEFT 0.21 writes it, with `changes` made to it.
fn config_json(changes: Value) -> Value {
    let text = r#"{
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "base_model_name_or_path": "base", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
        "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16, "lora_bias": false,
        "lora_dropout": 0.05, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
        "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
        "qalora_group_size": 16, "r": 2, "rank_pattern": {}, "revision": null,
        "target_modules": ["q_proj", "v_proj"], "target_parameters": null, "task_type": "CAUSAL_LM",
        "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
        "use_rslora": false, "velora_config": null, "some_later_key": {"a": 1}
    }"#;
    let mut config: Value = serde_json::from_str(text).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

fn parse(changes: Value) -> Result<PeftConfig, WeightsError> {
    PeftConfig::parse(config_json(changes).to_string().as_bytes(), Path::new("adapter_config.json"))
}

/// What PEFT writes is understood; keys that are unknown or at rest are passed over.
#[test]
fn config_is_read() {
    let config = parse(json!({})).unwrap();
    assert_eq!((config.rank, config.alpha, config.dropout), (2, 16.0, 0.05));
    assert_eq!(config.targets, TargetSpec::Names(vec!["q_proj".into(), "v_proj".into()]));
    assert_eq!(config.base_model.as_deref(), Some("base"));
    assert_eq!(config.scale_of(Q).unwrap(), 8.0);
    assert!(config.inference_mode && !config.fan_in_fan_out);
}

/// What is written is read as the same, with every field at another value than its default.
#[test]
fn config_survives_writing() {
    let config = PeftConfig {
        dropout: 0.25,
        exclude: Some(TargetSpec::Names(vec!["layers.1.q_proj".into()])),
        use_rslora: true,
        fan_in_fan_out: true,
        rank_pattern: vec![(ModulePattern::path_end("v_proj").unwrap(), 4)],
        alpha_pattern: vec![(ModulePattern::path_end("^model.*").unwrap(), 2.5)],
        base_model: Some("b".into()),
        revision: Some("main".into()),
        inference_mode: false,
        init_lora_weights: json!("gaussian"),
        ..PeftConfig::new(8, 16.0, TargetSpec::from_string(r".*\.(q|v)_proj").unwrap())
    };
    let written = config.to_json();
    assert_eq!(PeftConfig::parse(written.to_string().as_bytes(), Path::new("c")).unwrap(), config);
    assert!(written["lora_alpha"].is_i64(), "PEFT declares alpha an integer");
    let keys: Vec<_> = written.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

/// Features that would change the adapter's meaning are refused by name.
#[test]
fn unsupported_features_are_refused() {
    for (changes, expected) in [
        (json!({"use_dora": true}), "DoRA"),
        (json!({"bias": "lora_only"}), "lora_only"),
        (json!({"lora_bias": true}), "lora_bias"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
        (json!({"layers_to_transform": [0]}), "layers_to_transform"),
        (json!({"layers_to_transform": 0}), "layers_to_transform"),
        (json!({"layer_replication": [[0, 2]]}), "layer_replication"),
        (json!({"target_parameters": ["w"]}), "target_parameters"),
        (json!({"trainable_token_indices": [1]}), "trainable_token_indices"),
        (json!({"init_lora_weights": "pissa"}), "pissa"),
        (json!({"init_lora_weights": "olora"}), "olora"),
        (json!({"peft_type": "IA3"}), "IA3"),
        (json!({"peft_type": null}), "peft_type"),
        (json!({"target_modules": null}), "target_modules"),
        (json!({"target_modules": []}), "target_modules"),
        (json!({"target_modules": [1]}), "target_modules"),
        (json!({"target_modules": "(q"}), "(q"),
        (json!({"target_modules": "a)(b"}), "a)(b"),
        (json!({"rank_pattern": {"q": 0}}), "rank_pattern"),
        (json!({"rank_pattern": {"(": 1}}), "pattern"),
        (json!({"r": 0}), "r = 0"),
        (json!({"r": -1}), "r = -1"),
        (json!({"r": 1u64 << 40}), "r = 1099511627776"),
        (json!({"lora_alpha": "16"}), "lora_alpha"),
        (json!({"lora_dropout": 1.0}), "lora_dropout"),
        (json!({"use_rslora": "yes"}), "use_rslora"),
    ] {
        refused(parse(changes), &[expected]);
    }
    refused(PeftConfig::parse(b"{\n  \"r\": }", Path::new("adapter_config.json")), &["line 2, column 8"]);
    refused(PeftConfig::parse(b"[]", Path::new("adapter_config.json")), &["adapter_config.json"]);
}

/// PEFT's rules: a name is the whole path or its end behind a dot; an expression has to match all of it;
/// exclusion beats both.
#[test]
fn targets_match_as_in_peft() {
    let matches = |targets: Value, exclude: Value, path: &str| {
        parse(json!({"target_modules": targets, "exclude_modules": exclude})).unwrap().matches(path).unwrap()
    };
    let none = Value::Null;
    for (targets, path, expected) in [
        (json!(["q_proj"]), Q, true),
        (json!(["self_attn.q_proj"]), Q, true),
        (json!([Q]), Q, true),
        (json!(["proj"]), Q, false),
        (json!(["q_proj"]), "q_proj", true),
        (json!(["attn"]), Q, false),
        (json!(".*q_proj"), Q, true),
        (json!("q_proj"), Q, false),
        (json!("model|.*q_proj"), Q, true),
        (json!(r".*\.(?!1\.)\d+\.self_attn\..*"), Q, true),
        (json!(r".*\.(?!0\.)\d+\.self_attn\..*"), Q, false),
        (json!("all-linear"), Q, true),
        (json!("ALL-LINEAR"), Q, true),
    ] {
        assert_eq!(matches(targets.clone(), none.clone(), path), expected, "{targets} on {path}");
    }
    assert!(!matches(json!(["q_proj"]), json!(["layers.0.self_attn.q_proj"]), Q));
    assert!(!matches(json!("all-linear"), json!(".*self_attn.*"), Q));
    assert!(matches(json!(["q_proj"]), json!([]), Q));
}

/// Rank and alpha by pattern: the first that matches the path's end counts, and the scale follows both.
#[test]
fn patterns_override_rank_and_alpha() {
    let config = parse(json!({
        "rank_pattern": {"layers.0.self_attn.q_proj": 4, "q_proj": 16, "^v_proj": 32},
        "alpha_pattern": {r"layers\.\d\.self_attn\.q_proj": 64},
    }))
    .unwrap();
    assert_eq!(config.rank_of(Q).unwrap(), 4);
    assert_eq!(config.rank_of("model.layers.1.self_attn.q_proj").unwrap(), 16);
    assert_eq!(config.rank_of("model.layers.1.self_attn.xq_proj").unwrap(), 2);
    assert_eq!(config.rank_of("v_proj").unwrap(), 32);
    assert_eq!(config.rank_of("model.v_proj").unwrap(), 2);
    assert_eq!(config.scale_of(Q).unwrap(), 16.0);
    let rslora = parse(json!({"use_rslora": true, "r": 4})).unwrap();
    assert_eq!(rslora.scale_of(Q).unwrap(), 8.0);
}

fn adapter(changes: Value, tensors: &[(&str, &[usize])]) -> Result<PeftAdapter, WeightsError> {
    let dir = tempdir().unwrap();
    let values: Vec<Vec<f32>> = tensors.iter().map(|(_, shape)| vec![1.0; shape.iter().product()]).collect();
    let list: Vec<_> = tensors.iter().zip(&values).map(|((n, s), v)| (*n, *s, v.as_slice())).collect();
    put(dir.path(), "adapter_config.json", config_json(changes).to_string());
    put(dir.path(), "adapter_model.safetensors", f32_file(&list));
    PeftAdapter::open(dir.path())
}

const QA: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const QB: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

/// Pairs are found by module, with and without an adapter's name in the keys.
#[test]
fn pairs_are_read() {
    let named_a = "base_model.model.lora_A.v_proj.lora_A.default.weight";
    let named_b = "base_model.model.lora_A.v_proj.lora_B.default.weight";
    let read =
        adapter(json!({}), &[(QA, &[2, 5]), (QB, &[3, 2]), (named_a, &[2, 4]), (named_b, &[4, 2])]).unwrap();
    assert_eq!(read.modules().keys().collect::<Vec<_>>(), ["lora_A.v_proj", Q]);
    let pair = &read.modules()[Q];
    assert_eq!((pair.rank(), pair.in_features(), pair.out_features()), (2, 5, 3));
}

/// A file that is no complete plain LoRA adapter, or not the one the config describes, is refused.
#[test]
fn unsound_adapters_are_refused() {
    type Case<'a> = (Value, &'a [(&'a str, &'a [usize])], &'a [&'a str]);
    let renamed = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";
    let cases: &[Case] = &[
        (json!({}), &[(QA, &[2, 5])], &["no lora_B", Q]),
        (json!({}), &[(QB, &[3, 2])], &["no lora_A", Q]),
        (json!({}), &[], &["holds no tensors"]),
        (json!({}), &[(QA, &[2, 5]), (QB, &[3, 4])], &[Q, "[2, 5]", "[3, 4]", "do not share a rank"]),
        (json!({"r": 8}), &[(QA, &[2, 5]), (QB, &[3, 2])], &[Q, "rank 2", "says 8"]),
        (json!({"target_modules": ["v_proj"]}), &[(QA, &[2, 5]), (QB, &[3, 2])], &[Q, "target_modules"]),
        (json!({}), &[(QA, &[2, 5, 1]), (QB, &[3, 2])], &["no matrix"]),
        (json!({}), &[(QA, &[2, 0]), (QB, &[3, 2])], &["no matrix"]),
        (json!({}), &[(QA, &[2, 5]), (renamed, &[2, 5]), (QB, &[3, 2])], &["comes twice"]),
        (
            json!({}),
            &[("base_model.model.wte.lora_embedding_A", &[2, 5])],
            &["lora_embedding_A", "embedding"],
        ),
        (json!({}), &[("base_model.model.q_proj.lora_magnitude_vector", &[5])], &["DoRA"]),
        (json!({}), &[("base_model.model.lm_head.weight", &[5, 2])], &["not part of a plain LoRA"]),
        (json!({}), &[("base_model.model.score.modules_to_save.default.weight", &[5])], &["saved whole"]),
        (json!({}), &[("base_model.model.q_proj.lora_B.bias", &[5])], &["lora_B.bias", "not part"]),
        (json!({}), &[("q_proj.lora_A.weight", &[2, 5])], &["not part"]),
        (json!({}), &[("base_model.model.lora_A.weight", &[2, 5])], &["not part"]),
    ];
    for (changes, tensors, expected) in cases {
        refused(adapter(changes.clone(), tensors), expected);
    }
}

/// Folders that hold no readable adapter are refused by what they hold.
#[test]
fn folders_that_are_no_adapter() {
    let dir = tempdir().unwrap();
    refused(PeftAdapter::open(&dir.path().join("none")), &["does not exist"]);
    refused(PeftAdapter::open(Path::new("no-such-org/adapter")), &["downloading from the hub"]);
    refused(PeftAdapter::open(dir.path()), &["no adapter_config.json"]);
    put(dir.path(), "adapter_config.json", config_json(json!({})).to_string());
    refused(PeftAdapter::open(dir.path()), &["no adapter_model.safetensors"]);
    refused(PeftAdapter::open(&dir.path().join("adapter_config.json")), &["give the folder"]);
    put(dir.path(), "adapter_model.bin", "x");
    refused(PeftAdapter::open(dir.path()), &["adapter_model.bin", "pickle"]);
}

fn shape(module: &str) -> LoraShape {
    LoraShape { module: module.into(), rank: 2, in_features: 3, out_features: 4 }
}

/// A saved adapter is read back with the same bytes; all-linear is written as the names it came to.
#[test]
fn saved_adapter_is_read_back() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("adapter");
    let config = PeftConfig::new(2, 4.0, TargetSpec::AllLinear);
    let shapes = [shape("h.0.attn.c_attn"), shape("h.0.mlp.c_fc"), shape("h.1.mlp.c_fc")];
    let a = |at: usize| f32_bytes(&[at as f32 + 0.5; 6]);
    let b = |at: usize| f32_bytes(&[at as f32 + 0.25; 8]);
    let tensors = shapes.iter().enumerate().map(|(at, shape)| Ok((shape.module.clone(), a(at), b(at))));
    save_adapter::<WeightsError, _>(&path, &config, &shapes, tensors).unwrap();
    let read = PeftAdapter::open(&path).unwrap();
    assert_eq!(read.config().targets, TargetSpec::Names(vec!["c_attn".into(), "c_fc".into()]));
    for (at, shape) in shapes.iter().enumerate() {
        let pair = &read.modules()[&shape.module];
        assert_eq!((pair.a.shape(), pair.b.shape()), (&[2, 3][..], &[4, 2][..]));
        assert_eq!(convert::convert(&pair.a, WeightDType::F32).unwrap(), a(at));
        assert_eq!(convert::convert(&pair.b, WeightDType::F32).unwrap(), b(at));
    }
}

/// An adapter that could not be loaded again is not written, and a failure half-way leaves nothing.
#[test]
fn unsound_adapters_are_not_written() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("adapter");
    let config = PeftConfig::new(2, 4.0, TargetSpec::Names(vec!["q".into()]));
    let save = |shapes: &[LoraShape], bytes: usize| {
        let tensors = shapes.iter().map(|shape| Ok((shape.module.clone(), vec![0; 24], vec![0; bytes])));
        save_adapter::<WeightsError, _>(&path, &config, shapes, tensors)
    };
    refused(save(&[], 32), &["no module"]);
    refused(save(&[shape("v")], 32), &["module v is not among"]);
    refused(save(&[LoraShape { rank: 3, ..shape("q") }], 32), &["module q", "rank 3", "says 2"]);
    refused(save(&[shape("q"), shape("q")], 32), &["two tensors called base_model.model.q.lora_A"]);
    refused(save(&[shape("q")], 28), &["q.lora_B.weight lacks its last 4 bytes"]);
    refused(save(&[shape("q")], 36), &["q.lora_B.weight has room for 32"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    save(&[shape("q")], 32).unwrap();
}

proptest! {
    /// A config is read or refused, whatever it says; an expression from a stranger is matched or refused.
    #[test]
    fn random_config_never_panics(
        key in prop::sample::select(config_json(json!({})).as_object().unwrap().keys().cloned().collect::<Vec<_>>()),
        value in prop_oneof![
            Just(json!(null)), any::<bool>().prop_map(|v| json!(v)), any::<i64>().prop_map(|v| json!(v)),
            any::<f64>().prop_map(|v| json!(v)), "[a-z.*+?()|^$\\\\\\[\\]{}0-9]{0,10}".prop_map(|v| json!(v)),
            prop::collection::vec("\\PC{0,4}", 0..3).prop_map(|v| json!(v)),
            ("[a-z.*()|^$]{0,6}", any::<i32>()).prop_map(|(k, v)| json!({ k: v })),
        ],
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        if let Ok(config) = parse(json!({ key: value })) {
            let _ = (config.matches(Q), config.scale_of(Q));
            let again = PeftConfig::parse(config.to_json().to_string().as_bytes(), Path::new("c")).unwrap();
            prop_assert_eq!(again, config);
        }
        let _ = PeftConfig::parse(&noise, Path::new("c"));
    }

    /// Whatever the tensors are called, an adapter is read or refused.
    #[test]
    fn random_tensor_names_never_panic(name in "(base_model\\.model\\.)?[a-z.]{0,4}(\\.lora_[AB])?[a-z.]{0,4}(\\.weight)?") {
        let _ = adapter(json!({}), &[(&name, &[2, 2])]);
    }
}

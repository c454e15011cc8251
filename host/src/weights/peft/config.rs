//! `adapter_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::target::{ModulePattern, TargetSpec};
use crate::weights::{WeightsError, json};

/// A LoRA adapter's config, as far as it means something here. Keys that are unknown are passed over, as PEFT
/// does; keys that would change the adapter's meaning are refused.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// The rank of modules that no `rank_pattern` names; at least 1.
    pub rank: usize,
    /// The alpha of modules that no `alpha_pattern` names.
    pub alpha: f64,
    /// Probability in [0, 1) with which an element of the adapter's input is dropped in training.
    pub dropout: f64,
    pub targets: TargetSpec,
    /// Modules that are left out although `targets` names them.
    pub exclude: Option<TargetSpec>,
    /// Scale by alpha / sqrt(rank) instead of alpha / rank.
    pub use_rslora: bool,
    /// Whether the adapted weights are stored as [in, out], as GPT-2's are.
    pub fan_in_fan_out: bool,
    /// Other ranks for some modules; the first pattern that matches counts.
    pub rank_pattern: Vec<(ModulePattern, usize)>,
    /// Other alphas for some modules; the first pattern that matches counts.
    pub alpha_pattern: Vec<(ModulePattern, f64)>,
    /// `CAUSAL_LM` for all that is trained here.
    pub task_type: Option<String>,
    /// Path or hub id of the model that the adapter was trained on.
    pub base_model: Option<String>,
    pub revision: Option<String>,
    pub inference_mode: bool,
    /// How A and B were initialized: a boolean, or `gaussian`, `eva`, `orthogonal`.
    pub init_lora_weights: Value,
}

/// Keys that must be absent, null, false or empty, and what they stand for.
const REFUSED: [(&str, &str); 14] = [
    ("use_dora", "DoRA"),
    ("lora_bias", "biases on B"),
    ("modules_to_save", "modules that are trained and saved whole"),
    ("layers_to_transform", "a choice of layers by number (name the modules in target_modules instead)"),
    ("layer_replication", "replicated layers"),
    ("target_parameters", "adapters on bare parameters"),
    ("trainable_token_indices", "trained token embeddings"),
    ("use_qalora", "QALoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "MonteCLoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("arrow_config", "Arrow routing"),
    ("kasa_config", "KaSA"),
];

impl PeftConfig {
    /// A config for a new adapter on a causal language model: no dropout, no patterns, rank and alpha the same
    /// for all modules.
    pub fn new(rank: usize, alpha: f64, targets: TargetSpec) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            targets,
            exclude: None,
            use_rslora: false,
            fan_in_fan_out: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            task_type: Some("CAUSAL_LM".into()),
            base_model: None,
            revision: None,
            inference_mode: true,
            init_lora_weights: Value::Bool(true),
        }
    }

    /// Reads the config file at `path`.
    ///
    /// # Errors
    /// Invalid JSON; another method than LoRA; a feature that is not supported, by name; a value out of range.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        Self::parse(&json::read_bytes(path)?, path)
    }

    /// Reads the config whose content is `bytes`; `path` is for errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, WeightsError> {
        let map: Map<String, Value> = json::parse(bytes, path)?;
        let reader = Reader { map: &map, path };
        reader.check_method()?;
        reader.check_refused()?;
        let config = Self {
            rank: reader.rank("r", reader.get("r").unwrap_or(&json!(8)))?,
            alpha: reader.number("lora_alpha", reader.get("lora_alpha").unwrap_or(&json!(8)))?,
            dropout: reader.number("lora_dropout", reader.get("lora_dropout").unwrap_or(&json!(0.0)))?,
            targets: reader.targets("target_modules")?.ok_or_else(|| {
                reader.problem(
                    "names no target_modules, so it is unknown which layers the adapter is on".into(),
                )
            })?,
            exclude: reader.targets("exclude_modules")?,
            use_rslora: reader.flag("use_rslora")?,
            fan_in_fan_out: reader.flag("fan_in_fan_out")?,
            rank_pattern: reader.pattern("rank_pattern", |value| reader.rank("rank_pattern", value))?,
            alpha_pattern: reader.pattern("alpha_pattern", |value| reader.number("alpha_pattern", value))?,
            task_type: reader.text("task_type")?,
            base_model: reader.text("base_model_name_or_path")?,
            revision: reader.text("revision")?,
            inference_mode: reader.flag("inference_mode")?,
            init_lora_weights: reader.init_lora_weights()?,
        };
        if !(0.0..1.0).contains(&config.dropout) {
            return Err(reader.problem(format!("has a lora_dropout of {}, not within 0..1", config.dropout)));
        }
        Ok(config)
    }

    /// Whether the module at `path` is adapted. Ask for linear layers only, and not for the head if the
    /// targets are [`TargetSpec::AllLinear`].
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if matching an expression takes too many steps.
    pub fn matches(&self, path: &str) -> Result<bool, WeightsError> {
        let excluded = self.exclude.as_ref().map_or(Ok(false), |exclude| exclude.matches(path))?;
        Ok(!excluded && self.targets.matches(path)?)
    }

    /// The rank of the module at `path`.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if matching an expression takes too many steps.
    pub fn rank_of(&self, path: &str) -> Result<usize, WeightsError> {
        Ok(first_match(&self.rank_pattern, path)?.unwrap_or(self.rank))
    }

    /// The factor on the adapter's output for the module at `path`.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if matching an expression takes too many steps.
    pub fn scale_of(&self, path: &str) -> Result<f64, WeightsError> {
        let rank = self.rank_of(path)? as f64;
        let alpha = first_match(&self.alpha_pattern, path)?.unwrap_or(self.alpha);
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    /// The config as PEFT writes it, with sorted keys. Keys newer than PEFT 0.12 are there only where they say
    /// something, because older versions refuse those they do not know.
    pub fn to_json(&self) -> Value {
        let rank_pattern: Map<_, _> =
            self.rank_pattern.iter().map(|(pattern, rank)| (pattern.source().into(), json!(rank))).collect();
        let alpha_pattern: Map<_, _> = self
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| (pattern.source().into(), number(*alpha)))
            .collect();
        let mut config = json!({
            "alpha_pattern": alpha_pattern,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": self.inference_mode,
            "init_lora_weights": self.init_lora_weights,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": rank_pattern,
            "revision": self.revision,
            "target_modules": targets_json(&self.targets),
            "task_type": self.task_type,
            "use_dora": false,
            "use_rslora": self.use_rslora,
        });
        if let (Some(exclude), Value::Object(map)) = (&self.exclude, &mut config) {
            map.insert("exclude_modules".into(), targets_json(exclude));
            map.sort_keys();
        }
        config
    }
}

fn first_match<T: Copy>(patterns: &[(ModulePattern, T)], path: &str) -> Result<Option<T>, WeightsError> {
    for (pattern, value) in patterns {
        if pattern.matches(path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn targets_json(targets: &TargetSpec) -> Value {
    match targets {
        TargetSpec::AllLinear => json!("all-linear"),
        TargetSpec::Names(names) => json!(names),
        TargetSpec::Regex(pattern) => json!(pattern.source()),
    }
}

/// PEFT declares alpha an integer; a whole number is written as one.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The parsed file, and how to say what is wrong with it.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn problem(&self, problem: String) -> WeightsError {
        WeightsError::unusable(self.path, problem)
    }

    /// The value of `key`, if it is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn check_method(&self) -> Result<(), WeightsError> {
        match self.get("peft_type").map(Value::as_str) {
            Some(Some("LORA")) => {}
            Some(Some(other)) => {
                return Err(self.problem(format!("is for the PEFT method {other}; only LORA is supported")));
            }
            _ => {
                return Err(
                    self.problem("does not say its peft_type, so it is not a PEFT adapter's config".into())
                );
            }
        }
        match self.get("bias") {
            None => Ok(()),
            Some(Value::String(bias)) if bias == "none" => Ok(()),
            Some(bias) => Err(self
                .problem(format!("has bias = {bias}: trained biases are not supported, only \"none\" is"))),
        }
    }

    fn check_refused(&self) -> Result<(), WeightsError> {
        for (key, meaning) in REFUSED {
            let says_something = match self.get(key) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                Some(_) => true,
            };
            if says_something {
                return Err(self.problem(format!("sets {key}: {meaning} is not supported yet")));
            }
        }
        Ok(())
    }

    fn flag(&self, key: &str) -> Result<bool, WeightsError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(self.problem(format!("has {key} = {other}, where true or false was expected")))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.problem(format!("has {key} = {other}, where a string was expected"))),
        }
    }

    fn number(&self, key: &str, value: &Value) -> Result<f64, WeightsError> {
        let number = value.as_f64().filter(|number| number.is_finite());
        number.ok_or_else(|| self.problem(format!("has {key} = {value}, where a number was expected")))
    }

    fn rank(&self, key: &str, value: &Value) -> Result<usize, WeightsError> {
        let rank = value.as_u64().and_then(|rank| u32::try_from(rank).ok()).filter(|rank| *rank > 0);
        rank.map(|rank| rank as usize).ok_or_else(|| {
            self.problem(format!("has {key} = {value}, where a rank of at least 1 was expected"))
        })
    }

    fn targets(&self, key: &str) -> Result<Option<TargetSpec>, WeightsError> {
        let names: Option<Vec<String>> = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => return TargetSpec::from_string(text).map(Some),
            Some(Value::Array(list)) => list.iter().map(|name| name.as_str().map(str::to_string)).collect(),
            Some(_) => None,
        };
        match names {
            Some(names) if names.is_empty() => Ok(None),
            Some(names) => Ok(Some(TargetSpec::Names(names))),
            None => Err(self.problem(format!("has a {key} that is neither a string nor a list of strings"))),
        }
    }

    fn pattern<T>(
        &self,
        key: &str,
        read: impl Fn(&Value) -> Result<T, WeightsError>,
    ) -> Result<Vec<(ModulePattern, T)>, WeightsError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(source, value)| Ok((ModulePattern::path_end(source)?, read(value)?)))
                .collect(),
            Some(other) => Err(self.problem(format!("has {key} = {other}, where an object was expected"))),
        }
    }

    /// Initializations that took something out of the base weights are refused: with the base model as it is
    /// on disk, the adapter would not give what it was trained to.
    fn init_lora_weights(&self) -> Result<Value, WeightsError> {
        match self.get("init_lora_weights") {
            None => Ok(Value::Bool(true)),
            Some(Value::Bool(flag)) => Ok(Value::Bool(*flag)),
            Some(Value::String(name)) if ["gaussian", "eva", "orthogonal"].contains(&name.as_str()) => {
                Ok(Value::String(name.clone()))
            }
            Some(other) => Err(self.problem(format!(
                "has init_lora_weights = {other}, which may have changed the base model's weights and is not \
                 supported; convert the adapter with PEFT's path_initial_model_for_weight_conversion"
            ))),
        }
    }
}

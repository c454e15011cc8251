//! Models: a config becomes a forward program.
//!
//! An architecture is one file with one row in the table `ARCHITECTURES`. It lists its tensors and linear layers and
//! writes its forward pass with a [`Forward`], which takes care of weights, adapters and precision.

mod blocks;
mod cache;
mod config;
mod decoder;
mod forward;
mod gpt2;
mod init;
mod llama;
mod mistral;
mod rope;
mod small;

use finetune_plugin_api::program::ValueId;

pub use cache::{Extension, LOGITS, extend_program, grow_program};
pub use config::Config;
pub use forward::{BatchInputs, CacheInputs, Forward, ForwardOptions, LossProgram, input, loss_program};
pub use init::{Init, fill};
pub use small::small_config;

/// What is wrong with a model's config, or asked of a model that it has not.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config names an architecture that is not known.
    #[error("model type {model_type:?} is not supported; supported are: {supported}")]
    UnknownArchitecture {
        /// What the config says.
        model_type: String,
        /// The known ones.
        supported: String,
    },
    /// A key of the config is missing, of the wrong type, or has a value that is not supported.
    #[error("config.json: {0}")]
    Config(String),
    /// The program that was built from the config breaks a rule of the language.
    #[error("the model cannot be built from its config: {0}")]
    Program(#[from] finetune_plugin_api::program::ProgramError),
    /// Adapter targets that name no linear layer.
    #[error("{0}")]
    Targets(String),
}

/// A weight tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name in the model's files.
    pub name: String,
    /// Another name under which older files have it.
    pub alias: Option<String>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How it begins when the model starts from random weights.
    pub init: Init,
}

/// A linear layer, which an adapter may be put on.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    /// Its module path: the weight's name without `.weight`.
    pub path: String,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Whether the weight is stored [inputs, outputs], as GPT-2's Conv1D layers are, and not [outputs, inputs].
    pub fan_in_fan_out: bool,
    /// Whether it gives the logits.
    pub head: bool,
    /// Whether it is one of the projections of an attention block.
    pub attention: bool,
}

/// The head of a model: the weight whose rows are compared with the last hidden state.
pub struct Head {
    /// The name of its weight, [vocabulary, channels].
    pub weight: String,
    /// Its module path as an adapter target.
    pub path: String,
}

/// A model architecture with its sizes.
pub trait Architecture: Send + Sync {
    /// The word for it in `model_type`.
    fn model_type(&self) -> &'static str;
    /// Size of the vocabulary.
    fn vocabulary(&self) -> usize;
    /// Channels of the hidden state.
    fn channels(&self) -> usize;
    /// The most positions the model can tell apart, if there is a limit that it cannot compute beyond.
    fn position_limit(&self) -> Option<usize>;
    /// Every weight tensor.
    fn tensors(&self) -> Vec<TensorSpec>;
    /// Every linear layer, in the order of the forward pass.
    fn linears(&self) -> Vec<LinearSpec>;
    /// Buffers that are computed from the config, by name.
    fn computed(&self) -> Vec<(String, Vec<f32>)> {
        Vec::new()
    }
    /// The head.
    fn head(&self) -> Head;
    /// Writes the forward pass; returns the normalized last hidden state, [B T, channels].
    fn hidden(&self, f: &mut Forward<'_>, batch: &BatchInputs) -> ValueId;
}

type Make = fn(&Config) -> Result<Box<dyn Architecture>, ModelError>;

/// Every architecture: `model_type`, the class name in `architectures`, and how it is made.
const ARCHITECTURES: &[(&str, &str, Make)] = &[
    ("gpt2", "GPT2LMHeadModel", gpt2::make),
    ("llama", "LlamaForCausalLM", llama::make),
    ("mistral", "MistralForCausalLM", mistral::make),
];

/// The architecture that a `config.json` describes.
pub fn from_config(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let model_type = match config.optional_text("model_type")? {
        Some(model_type) => model_type,
        None => class_name(config)?,
    };
    match ARCHITECTURES.iter().find(|(name, class, _)| *name == model_type || *class == model_type) {
        Some((_, _, make)) => {
            let model = make(config)?;
            check_size(model.as_ref())?;
            Ok(model)
        }
        None => {
            let supported: Vec<_> = ARCHITECTURES.iter().map(|(name, ..)| *name).collect();
            Err(ModelError::UnknownArchitecture { model_type, supported: supported.join(", ") })
        }
    }
}

/// Elements of a model that are believed; far below what overflows when bytes are added up.
const MAX_PARAMETERS: usize = 1 << 48;

fn check_size(model: &dyn Architecture) -> Result<(), ModelError> {
    let mut total = 0usize;
    for tensor in model.tensors() {
        let elements = tensor.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        total = elements.map_or(usize::MAX, |elements| total.saturating_add(elements));
        if total > MAX_PARAMETERS {
            return Err(ModelError::Config(format!(
                "its sizes make {} of shape {:?}, and more than 2^48 parameters in all; one of them must be wrong",
                tensor.name, tensor.shape
            )));
        }
    }
    Ok(())
}

fn class_name(config: &Config) -> Result<String, ModelError> {
    let class =
        config.value("architectures").and_then(|classes| classes.get(0)).and_then(|class| class.as_str());
    class
        .map(str::to_owned)
        .ok_or_else(|| ModelError::Config("it names no model_type; the architecture cannot be told".into()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(key: &str, value: Value) -> String {
        let mut config = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2});
        assert!(
            from_config(&Config::new(&config).unwrap()).is_ok(),
            "the sizes are good before one is changed"
        );
        config[key] = value;
        match from_config(&Config::new(&config).unwrap()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{key} is accepted"),
        }
    }

    /// A config is believed before any file is looked at: no size in it may take the memory or overflow.
    #[test]
    fn sizes_that_cannot_be_are_refused_by_name() {
        for (key, value, word) in [
            ("num_hidden_layers", json!(1u64 << 31), "num_hidden_layers"),
            ("head_dim", json!(1u64 << 31), "head_dim"),
            ("num_attention_heads", json!(1u64 << 30), "hidden_size"),
            ("vocab_size", json!(1u64 << 40), "vocab_size"),
        ] {
            let message = refusal(key, value);
            assert!(message.contains(word), "{message}");
        }
        let message = refusal("num_key_value_heads", json!(3));
        assert!(message.contains("key heads"), "{message}");
    }

    /// Each size may be good and their product not.
    #[test]
    fn a_model_of_too_many_parameters_is_refused() {
        let large = 1u64 << 31;
        let config = json!({"model_type": "llama", "vocab_size": large, "hidden_size": large,
            "intermediate_size": large, "num_hidden_layers": 1, "num_attention_heads": large, "head_dim": 65536});
        let error = from_config(&Config::new(&config).unwrap()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("2^48 parameters")));
    }
}

//! Reading a `config.json` with messages for a person.

use serde_json::{Map, Value};

use super::ModelError;

/// The keys of a `config.json`. A key that is `null` counts as absent.
#[derive(Clone, Debug)]
pub struct Config {
    keys: Map<String, Value>,
}

/// The largest size that is believed: keeps products of sizes far from overflow.
const MAX_SIZE: u64 = 1 << 31;

/// The most layers that are believed: programs hold every layer, so memory is taken for each.
const MAX_LAYERS: usize = 10_000;

impl Config {
    /// From the parsed file.
    pub fn new(json: &Value) -> Result<Config, ModelError> {
        match json {
            Value::Object(keys) => Ok(Config { keys: keys.clone() }),
            _ => Err(ModelError::Config("it is not a JSON object".into())),
        }
    }

    /// The raw value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is written, even if as `null`.
    pub fn mentions(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    fn wrong(key: &str, value: &Value, expected: &str) -> ModelError {
        ModelError::Config(format!("{key} is {value}; expected {expected}"))
    }

    /// A size: a whole number from 1 up.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| ModelError::Config(format!("{key} is missing; expected a whole number from 1 up")))
    }

    /// A size that may be absent.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=MAX_SIZE) => Ok(Some(size as usize)),
            _ => Err(Config::wrong(key, value, "a whole number from 1 to 2^31")),
        }
    }

    /// A number of layers.
    pub fn layers(&self, key: &str) -> Result<usize, ModelError> {
        match self.size(key)? {
            layers if layers <= MAX_LAYERS => Ok(layers),
            layers => Err(ModelError::Config(format!("{key} is {layers}; expected at most {MAX_LAYERS}"))),
        }
    }

    /// A finite number, or the default.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_f64().filter(|v| v.is_finite()).ok_or_else(|| Config::wrong(key, value, "a number"))
    }

    /// A finite number that must be there.
    pub fn required_number(&self, key: &str) -> Result<f64, ModelError> {
        match self.value(key) {
            Some(_) => self.number(key, 0.0),
            None => Err(ModelError::Config(format!("{key} is missing; expected a number"))),
        }
    }

    /// A truth value, or the default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| Config::wrong(key, value, "true or false"))
    }

    /// A text that may be absent.
    pub fn optional_text(&self, key: &str) -> Result<Option<String>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| Config::wrong(key, value, "a text"))
    }

    /// An object that may be absent.
    pub fn section(&self, key: &str) -> Result<Option<Config>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value {
            Value::Object(keys) => Ok(Some(Config { keys: keys.clone() })),
            _ => Err(Config::wrong(key, value, "an object")),
        }
    }

    /// The activation function under `key` as the program language names it.
    pub fn activation(&self, key: &str, default: &str) -> Result<&'static str, ModelError> {
        let name = self.optional_text(key)?.unwrap_or_else(|| default.to_owned());
        match name.as_str() {
            "silu" | "swish" => Ok("silu"),
            "gelu" => Ok("gelu"),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok("gelu_tanh"),
            _ => Err(ModelError::Config(format!(
                "{key} is {name:?}; supported are silu, gelu, gelu_new and gelu_pytorch_tanh"
            ))),
        }
    }
}

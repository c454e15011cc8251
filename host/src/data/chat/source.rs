//! Where a model keeps its chat template and special tokens.

use super::super::DataError;
use crate::weights::{self, gguf::Gguf};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Templates by what they are for, and the special tokens that they may name.
#[derive(Default)]
pub(super) struct Source {
    pub default: Option<String>,
    pub tool_use: Option<String>,
    pub specials: Map<String, Value>,
}

/// What a model's folder or GGUF file has; `path` may be a file in the folder.
pub(super) fn read(path: &Path) -> Result<Source, DataError> {
    if weights::is_gguf(path) {
        let gguf = Gguf::open(path)?;
        let text = |name| gguf.chat_template(name).map(|text| text.map(str::to_owned));
        let specials = gguf.vocabulary()?.specials();
        return Ok(Source { default: text(None)?, tool_use: text(Some("tool_use"))?, specials });
    }
    let folder = if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() };
    let mut source = Source::default();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        if let Some((path, config)) = object(&folder, name)? {
            collect_specials(&config, &mut source.specials);
            if let Some(template) = config.get("chat_template").filter(|value| !value.is_null()) {
                take_templates(template, &mut source).map_err(|problem| bad(&path, problem))?;
            }
        }
    }
    if let Some(text) = text(&folder.join("chat_template.jinja"))? {
        source.default = Some(text);
        source.tool_use = text_of_tools(&folder)?;
    }
    Ok(source)
}

fn text_of_tools(folder: &Path) -> Result<Option<String>, DataError> {
    text(&folder.join("additional_chat_templates").join("tool_use.jinja"))
}

fn collect_specials(config: &Map<String, Value>, specials: &mut Map<String, Value>) {
    for (key, value) in config.iter().filter(|(key, _)| key.ends_with("_token")) {
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        if let Some(text) = text {
            specials.insert(key.clone(), text.into());
        }
    }
}

/// `chat_template` is the template, or a list of templates with names.
fn take_templates(template: &Value, source: &mut Source) -> Result<(), String> {
    let list = match template {
        Value::String(text) => {
            source.default = Some(text.clone());
            return Ok(());
        }
        Value::Array(list) => list,
        _ => return Err("its chat_template is neither a string nor a list of {name, template}".into()),
    };
    for entry in list {
        let part = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        match (part("name").as_deref(), part("template")) {
            (Some("default"), Some(text)) => source.default = Some(text),
            (Some("tool_use"), Some(text)) => source.tool_use = Some(text),
            (Some(_), Some(_)) => {}
            _ => return Err("an entry of its chat_template lacks \"name\" or \"template\"".into()),
        }
    }
    match source.default {
        Some(_) => Ok(()),
        None => Err("none of its chat templates is named \"default\"".into()),
    }
}

/// A template file's text, or `None` if there is no such file.
pub(super) fn text(path: &Path) -> Result<Option<String>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = contents(path)?;
    String::from_utf8(bytes).map(Some).map_err(|_| bad(path, "it is not UTF-8".into()))
}

/// A file with its content.
type JsonFile = (PathBuf, Map<String, Value>);

fn object(folder: &Path, name: &str) -> Result<Option<JsonFile>, DataError> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let object = serde_json::from_slice(&contents(&path)?)
        .map_err(|e| bad(&path, format!("expected a JSON object, but {e}")))?;
    Ok(Some((path, object)))
}

fn contents(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Io { action: "read", path: path.into(), source })
}

fn bad(path: &Path, reason: String) -> DataError {
    DataError::BadTokenizerFile { path: path.into(), reason }
}

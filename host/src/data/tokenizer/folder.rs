//! A tokenizer from the files of a Hugging Face model folder.

use super::guard::guarded;
use super::{DataError, Tokenizer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, decoders, models::bpe::BPE, pre_tokenizers};

pub(super) fn load(folder: &Path) -> Result<Tokenizer, DataError> {
    let file = folder.join("tokenizer.json");
    let raw = if file.is_file() {
        parse(&file)?
    } else if folder.join("vocab.json").is_file() && folder.join("merges.txt").is_file() {
        byte_level_bpe(folder)?
    } else {
        return Err(DataError::NoTokenizer { folder: folder.into(), advice: advice(folder) });
    };
    let ends = end_ids(folder, &raw)?;
    Tokenizer::new(raw, ends).map_err(|e| bad(&file, e.to_string()))
}

/// Reads `tokenizer.json`. What is no JSON is said with its line; the library's own parser does not.
fn parse(file: &Path) -> Result<tokenizers::Tokenizer, DataError> {
    let bytes = read(file)?;
    let _: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|e| bad(file, format!("expected a JSON object, but {e}; download it again")))?;
    guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
        .map_err(|e| bad(file, format!("not a tokenizer: {e}")))
}

fn advice(folder: &Path) -> String {
    let convert = "load the model with transformers and save its fast tokenizer \
                   (`AutoTokenizer.from_pretrained(...).save_pretrained(...)`), which writes tokenizer.json";
    if !folder.is_dir() {
        return "there is no such folder".into();
    }
    for other in ["tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt"] {
        if folder.join(other).is_file() {
            return format!("only {other} is there, but tokenizer.json is needed; {convert}");
        }
    }
    format!("expected tokenizer.json; {convert}")
}

fn bad(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::BadTokenizerFile { path: path.into(), reason: reason.into() }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| DataError::Io { action: "read", path: path.into(), source })
}

/// A file with its content.
type JsonFile = (PathBuf, Map<String, Value>);

/// A JSON object file of the folder, or `None` if there is none.
fn object(folder: &Path, name: &str) -> Result<Option<JsonFile>, DataError> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let object = serde_json::from_slice(&read(&path)?)
        .map_err(|e| bad(&path, format!("expected a JSON object, but {e}")))?;
    Ok(Some((path, object)))
}

/// The model's end tokens, the one to append first.
fn end_ids(folder: &Path, raw: &tokenizers::Tokenizer) -> Result<Vec<u32>, DataError> {
    for name in ["config.json", "generation_config.json"] {
        if let Some((path, config)) = object(folder, name)?
            && let Some(value) = config.get("eos_token_id").filter(|v| !v.is_null())
        {
            let ids = ids_of(value).ok_or_else(|| {
                bad(&path, format!("eos_token_id is {value}, but a token id or a list of them was expected"))
            })?;
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
    }
    let Some((path, config)) = object(folder, "tokenizer_config.json")? else { return Ok(vec![]) };
    let Some(token) = config.get("eos_token").and_then(token_text) else { return Ok(vec![]) };
    match raw.token_to_id(token) {
        Some(id) => Ok(vec![id]),
        None => Err(bad(&path, format!("its eos_token {token:?} is not in the tokenizer's vocabulary"))),
    }
}

fn ids_of(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

/// A special token is written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// GPT-2's tokenizer from its two files of old.
fn byte_level_bpe(folder: &Path) -> Result<tokenizers::Tokenizer, DataError> {
    let config = object(folder, "tokenizer_config.json")?.map(|(_, config)| config).unwrap_or_default();
    if let Some(class) = config.get("tokenizer_class").and_then(Value::as_str)
        && !class.starts_with("GPT2Tokenizer")
    {
        // Other tokenizers keep the same two files but split text or add tokens in other ways.
        let advice = format!("vocab.json and merges.txt belong to a {class}; {}", advice(folder));
        return Err(DataError::NoTokenizer { folder: folder.into(), advice });
    }
    let (vocab_file, merges_file) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let as_text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            Err(bad(path, "its path is not Unicode, as that of a tokenizer in two files must be; rename it"))
        }
    };
    let (vocab, merges) = (as_text(&vocab_file)?, as_text(&merges_file)?);
    let bpe = guarded(|| BPE::from_file(&vocab, &merges).build())
        .map_err(|e| bad(&vocab_file, format!("not a byte-level BPE together with merges.txt: {e}")))?;
    let mut raw = tokenizers::Tokenizer::new(bpe);
    let space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    raw.with_pre_tokenizer(Some(pre_tokenizers::byte_level::ByteLevel::new(space, true, true)));
    raw.with_decoder(Some(decoders::byte_level::ByteLevel::default()));
    add_special_tokens(folder, &config, &mut raw)?;
    Ok(raw)
}

fn add_special_tokens(
    folder: &Path,
    config: &Map<String, Value>,
    raw: &mut tokenizers::Tokenizer,
) -> Result<(), DataError> {
    let mut added: Vec<(u64, String)> = vec![];
    if let Some((path, map)) = object(folder, "added_tokens.json")? {
        for (token, id) in map {
            let id = id.as_u64().ok_or_else(|| bad(&path, format!("{token:?} has no id: {id}")))?;
            added.push((id, token));
        }
    }
    added.sort();
    let mut names: Vec<String> = added.iter().map(|(_, token)| token.clone()).collect();
    let special = object(folder, "special_tokens_map.json")?.map(|(_, map)| map).unwrap_or_default();
    for key in ["unk_token", "bos_token", "eos_token", "pad_token"] {
        names.extend(config.get(key).or(special.get(key)).and_then(token_text).map(String::from));
    }
    names.push("<|endoftext|>".into());
    // A name without an id of its own would get one that the model's embedding may not have.
    names.retain(|name| raw.token_to_id(name).is_some() || added.iter().any(|(_, token)| token == name));
    raw.add_special_tokens(names.into_iter().map(|name| AddedToken::from(name, true)))
        .map_err(|e| bad(&folder.join("vocab.json"), e.to_string()))?;
    for (id, token) in added {
        let got = raw.token_to_id(&token).map(u64::from);
        if got != Some(id) {
            let reason = format!("{token:?} has id {id}, but {got:?} comes next after the vocabulary");
            return Err(bad(&folder.join("added_tokens.json"), reason));
        }
    }
    Ok(())
}

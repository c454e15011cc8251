//! A tokenizer from the lists in a GGUF file: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).
//!
//! The parts are written as `tokenizer.json` writes them, and are those that the models' own files have.

use super::guard::guarded;
use super::spelling::{self, Split};
use super::{DataError, Tokenizer};
use crate::weights::gguf::{Gguf, TokenKind, Vocabulary};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::{collections::HashSet, path::Path};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

/// SentencePiece writes a space as this.
const SPACE: &str = "\u{2581}";

pub(super) fn load(gguf: &Gguf) -> Result<Tokenizer, DataError> {
    let vocabulary = gguf.vocabulary()?;
    let raw = build(&vocabulary).map_err(|reason| bad(gguf, reason))?;
    Tokenizer::new(raw, vocabulary.ends().to_vec()).map_err(|e| bad(gguf, e.to_string()))
}

/// Writes what a Hugging Face folder of the model has besides config and weights: `tokenizer.json`,
/// `tokenizer_config.json` with the chat template, and `generation_config.json`.
///
/// # Errors
/// A tokenizer that cannot be built, and what the system says.
pub(crate) fn write_side_files(gguf: &Gguf, folder: &Path) -> Result<(), DataError> {
    let vocabulary = gguf.vocabulary()?;
    let tokenizer = build(&vocabulary)
        .and_then(|raw| guarded(|| raw.to_string(true)))
        .map_err(|reason| bad(gguf, reason))?;
    let is_id = |(key, _): &(&String, &Value)| key.ends_with("_token_id");
    let ids: Map<String, Value> =
        gguf.config().iter().filter(is_id).map(|(key, value)| (key.clone(), value.clone())).collect();
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", format!("{:#}\n", settings(gguf, &vocabulary)?)),
        ("generation_config.json", format!("{:#}\n", Value::from(ids))),
    ];
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|source| DataError::Io { action: "write", path, source })?;
    }
    Ok(())
}

/// What `tokenizer_config.json` says.
fn settings(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Value, DataError> {
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": gguf.config()["max_position_embeddings"],
    });
    if let Value::Object(settings) = &mut settings {
        settings.extend(vocabulary.specials());
        let template = |name: &str, text: &str| json!({"name": name, "template": text});
        let chat = match (gguf.chat_template(None)?, gguf.chat_template(Some("tool_use"))?) {
            (Some(text), None) => Some(text.into()),
            (Some(text), Some(tools)) => {
                Some(json!([template("default", text), template("tool_use", tools)]))
            }
            (None, _) => None,
        };
        settings.extend(chat.map(|chat| ("chat_template".to_owned(), chat)));
    }
    Ok(settings)
}

fn bad(gguf: &Gguf, reason: String) -> DataError {
    DataError::BadTokenizerFile { path: gguf.path().into(), reason: format!("its tokenizer: {reason}") }
}

fn build(vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer, String> {
    if let Some(key) = vocabulary.normalization {
        return Err(format!("{key} changes the text before it is cut, in a way that is not supported"));
    }
    let mut raw = match vocabulary.model {
        "gpt2" => byte_level(vocabulary)?,
        "llama" => sentence_piece(vocabulary)?,
        other => {
            return Err(format!(
                "tokenizer.ggml.model is {other:?}, which is not supported; supported are \"gpt2\" (byte-level BPE) \
                 and \"llama\" (SentencePiece)"
            ));
        }
    };
    add_tokens(vocabulary, &mut raw)?;
    raw.with_post_processor(template(vocabulary)?);
    Ok(raw)
}

fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer, String> {
    let Split { pattern, normalizer, ignore_merges, .. } = spelling::split(vocabulary.pre)?;
    let merges = vocabulary.merges.ok_or("tokenizer.ggml.merges is missing, which \"gpt2\" needs")?;
    let pairs = merges.iter().enumerate().map(|(number, merge)| match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(format!("merge {number} is {merge:?}; expected two tokens with a space between")),
    });
    let bpe = BPE::builder()
        .vocab_and_merges(vocab(vocabulary)?, pairs.collect::<Result<Merges, _>>()?)
        .ignore_merges(ignore_merges);
    let mut raw = tokenizers::Tokenizer::new(guarded(|| bpe.build())?);
    let space = vocabulary.add_space_prefix.unwrap_or(false);
    let by_itself = pattern.is_empty();
    let splits = pattern.into_iter().chain([json!({"type": "ByteLevel", "add_prefix_space": space,
        "trim_offsets": true, "use_regex": by_itself})]);
    let pre_tokenizers: Vec<Value> = splits.collect();
    raw.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(
        json!({"type": "Sequence", "pretokenizers": pre_tokenizers}),
    )?));
    if let Some(normalizer) = normalizer {
        normalize(&mut raw, normalizer)?;
    }
    raw.with_decoder(Some(part::<DecoderWrapper>(
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
    )?));
    Ok(raw)
}

fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer, String> {
    let scores = vocabulary.scores.ok_or("tokenizer.ggml.scores is missing, which \"llama\" needs")?;
    let merges = spelling::merges_of_scores(vocabulary, scores)?;
    let has_bytes = vocabulary.kinds.contains(&TokenKind::Byte);
    let mut bpe =
        BPE::builder().vocab_and_merges(vocab(vocabulary)?, merges).fuse_unk(true).byte_fallback(has_bytes);
    let by_kind = || vocabulary.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
    match vocabulary.unknown().map(|id| id as usize).or_else(by_kind) {
        Some(id) => bpe = bpe.unk_token(vocabulary.tokens[id].clone()),
        None if spells_every_byte(vocabulary) => {}
        None => {
            return Err(
                "it has neither a token for what is unknown nor one for every byte, so parts of a text \
                        would be lost"
                    .into(),
            );
        }
    }
    let mut raw = tokenizers::Tokenizer::new(guarded(|| bpe.build())?);
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalize(&mut raw, json!({"type": "Sequence", "normalizers": normalizers}))?;
    raw.with_decoder(Some(part::<DecoderWrapper>(json!({"type": "Sequence", "decoders": decoders}))?));
    Ok(raw)
}

fn spells_every_byte(vocabulary: &Vocabulary<'_>) -> bool {
    let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    (0..=255u8).all(|byte| tokens.contains(format!("<0x{byte:02X}>").as_str()))
}

fn normalize(raw: &mut tokenizers::Tokenizer, normalizer: Value) -> Result<(), String> {
    let normalizer = part::<NormalizerWrapper>(normalizer)?;
    guarded(|| raw.with_normalizer(Some(normalizer)).map(drop))
}

/// The tokens by id. Two tokens of one text cannot both be reached, and only one of them would be kept.
fn vocab(vocabulary: &Vocabulary<'_>) -> Result<Vocab, String> {
    let mut seen = HashSet::new();
    if let Some(twice) = vocabulary.tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(format!("the token {twice:?} comes twice in tokenizer.ggml.tokens"));
    }
    Ok(vocabulary.tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect())
}

/// Tokens that are found in a text before it is cut.
fn add_tokens(vocabulary: &Vocabulary<'_>, raw: &mut tokenizers::Tokenizer) -> Result<(), String> {
    let added = vocabulary.tokens.iter().zip(&vocabulary.kinds).filter_map(|(token, kind)| match kind {
        _ if token.is_empty() => None,
        TokenKind::Control | TokenKind::Unknown => Some(AddedToken::from(token.clone(), true)),
        TokenKind::UserDefined => Some(AddedToken::from(token.clone(), false).normalized(false)),
        _ => None,
    });
    let added: Vec<AddedToken> = added.collect();
    guarded(|| raw.add_tokens(added))?;
    Ok(())
}

/// Begin and end tokens around every text, where the file asks for them.
fn template(vocabulary: &Vocabulary<'_>) -> Result<Option<PostProcessorWrapper>, String> {
    let by_default = match vocabulary.model {
        "llama" => true,
        _ => spelling::split(vocabulary.pre)?.add_bos,
    };
    let token = |asked: Option<bool>, by_default: bool, id: Option<u32>, role: &str| match (asked, id) {
        (Some(true), None) => Err(format!(
            "tokenizer.ggml.add_{role}_token asks for a token, and tokenizer.ggml.{role}_token_id is missing"
        )),
        (asked, id) => Ok(id.filter(|_| asked.unwrap_or(by_default))),
    };
    let bos = token(vocabulary.add_bos, by_default, vocabulary.bos(), "bos")?;
    let eos = token(vocabulary.add_eos, false, vocabulary.eos(), "eos")?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let text = |id: u32| vocabulary.tokens.get(id as usize).map_or("", String::as_str);
    let special = |id: u32| json!({"SpecialToken": {"id": text(id), "type_id": 0}});
    let place = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let around = |place: Value| -> Vec<Value> {
        bos.map(special).into_iter().chain([place]).chain(eos.map(special)).collect()
    };
    let mut special_tokens = Map::new();
    for id in [bos, eos].into_iter().flatten() {
        let token = text(id);
        special_tokens.insert(token.into(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    let pair = [around(place("A", 0)), around(place("B", 1))].concat();
    let template = json!({"type": "TemplateProcessing", "single": around(place("A", 0)), "pair": pair,
        "special_tokens": special_tokens});
    part(template).map(Some)
}

/// A part of a tokenizer from how `tokenizer.json` writes it.
fn part<T: DeserializeOwned>(json: Value) -> Result<T, String> {
    guarded(|| serde_json::from_value(json).map_err(Into::into))
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;

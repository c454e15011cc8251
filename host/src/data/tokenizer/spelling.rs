//! How text is cut and joined in ways that a GGUF file only names or implies.

use crate::weights::gguf::{TokenKind, Vocabulary};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;
use tokenizers::models::bpe::Merges;

/// What stands behind `tokenizer.ggml.pre`.
pub(super) struct Split {
    /// Pre-tokenizers before the one for bytes; none if that one cuts by itself, as GPT-2's does.
    pub pattern: Vec<Value>,
    /// What is done to the text before.
    pub normalizer: Option<Value>,
    /// Whether a piece that is a token is one, whatever merges say.
    pub ignore_merges: bool,
    /// Whether a begin token is put in front where the file does not say.
    pub add_bos: bool,
}

/// GPT-2's own.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What llama.cpp does one after the other where a file names nothing.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

/// The way of cutting that a file names.
///
/// # Errors
/// A sentence for a name that is not known: cut in another way, text has other tokens than the model knows.
pub(super) fn split(pre: Option<&str>) -> Result<Split, String> {
    let isolated = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let plain =
        |pattern: Vec<Value>| Split { pattern, normalizer: None, ignore_merges: false, add_bos: false };
    Ok(match pre.unwrap_or("default") {
        "default" => plain(DEFAULT.map(isolated).into()),
        "gpt-2" | "gpt2" => plain(vec![]),
        "smollm" => plain(vec![json!({"type": "Digits", "individual_digits": true}), isolated(GPT2)]),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Split { ignore_merges: true, add_bos: true, ..plain(vec![isolated(LLAMA3)]) }
        }
        "qwen2" => Split { normalizer: Some(json!({"type": "NFC"})), ..plain(vec![isolated(QWEN2)]) },
        "tekken" => Split { ignore_merges: true, add_bos: true, ..plain(vec![isolated(TEKKEN)]) },
        other => {
            return Err(format!(
                "tokenizer.ggml.pre is {other:?}, a way of cutting text that is not known here; known are default, \
                 gpt-2, smollm, llama-bpe, qwen2 and tekken"
            ));
        }
    })
}

/// The most bytes of a token that other tokens may make together; SentencePiece's own limit is far below.
const LONGEST_MERGED: usize = 256;
/// The most merges; a vocabulary of 256,000 tokens has about 600,000.
const MOST_MERGES: usize = 1 << 22;

/// The merges that SentencePiece's scores stand for: every way to make a token of two, the highest score first,
/// in the order in which transformers writes them.
///
/// # Errors
/// A score that is no number, or more merges than any model has.
pub(super) fn merges_of_scores(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Result<Merges, String> {
    let tokens = vocabulary.tokens;
    let is_text = |id: usize| matches!(vocabulary.kinds[id], TokenKind::Normal | TokenKind::UserDefined);
    let texts = tokens.iter().enumerate().filter(|&(id, _)| is_text(id));
    let ids: HashMap<&str, u32> = texts.clone().map(|(id, token)| (token.as_str(), id as u32)).collect();
    let mut merges: Vec<(u32, u32, u32)> = Vec::new();
    for (id, token) in texts {
        if scores[id].is_nan() {
            return Err(format!("the score of token {id} is no number"));
        }
        if token.len() > LONGEST_MERGED {
            continue;
        }
        let first = merges.len();
        for (border, _) in token.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..border]), ids.get(&token[border..])) {
                merges.push((id as u32, left, right));
            }
        }
        if merges.len() > MOST_MERGES {
            return Err(format!("its tokens are made of each other in more than {MOST_MERGES} ways"));
        }
        merges[first..].sort_by_key(|&(_, left, right)| (left, right));
    }
    let chars = |id: u32| tokens[id as usize].chars().count();
    // Stable: what is equal stays in the order of ids.
    merges.sort_by(|a, b| {
        scores[b.0 as usize].total_cmp(&scores[a.0 as usize]).then_with(|| {
            let lengths = |&(_, left, right): &(u32, u32, u32)| Reverse((chars(left), chars(right)));
            lengths(a).cmp(&lengths(b))
        })
    });
    let text = |id: u32| tokens[id as usize].clone();
    Ok(merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect())
}

//! Text to token ids, as the model's own files say.

mod folder;
mod gguf;
mod guard;
mod spelling;
mod train;

use super::{DataError, cut};
use crate::weights::{self, gguf::Gguf};
pub(crate) use gguf::write_side_files;
use guard::guarded;
use std::{path::Path, sync::Arc};
use tokenizers::{
    Encoding, ModelWrapper, PaddingParams, PostProcessor, PostProcessorWrapper, Token as RawToken,
    TruncationParams,
};
pub use train::NewTokenizer;

/// A text longer than this is encoded only as far as an example needs.
const LONG_TEXT: usize = 64 << 10;
/// Tokens that end this far before the end of a head cannot depend on what follows it.
const SETTLED: usize = 1 << 10;

/// A token and the bytes of the text it stands for, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub id: u32,
    pub start: usize,
    pub end: usize,
}

/// A tokenizer with its end tokens. Cheap to clone; clones share one vocabulary.
///
/// Special tokens of the tokenizer's template (for example a begin token) are always added;
/// truncation, padding and merge dropout that a tokenizer file may ask for are switched off,
/// because the data room decides on length and the same seed must give the same tokens.
///
/// **The end token** is the first of the model's end tokens (`eos_token_id`, which may be a
/// list). It is appended to an encoding whose last token is not already one of the end tokens.
/// A model without an end token gets none.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Without its post-processor: some of those trim the offsets that tell prompt and
    /// completion apart, and what they add is the same for every text (`prefix`, `suffix`).
    raw: tokenizers::Tokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Loads the tokenizer of a model: of its folder, of the folder that its `config.json` is in, or of its GGUF
    /// file.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn from_model(path: &Path) -> Result<Tokenizer, DataError> {
        if weights::is_gguf(path) {
            return gguf::load(&Gguf::open(path)?);
        }
        match path.parent().filter(|_| path.is_file()) {
            Some(folder) if folder.as_os_str().is_empty() => folder::load(Path::new(".")),
            Some(folder) => folder::load(folder),
            None => folder::load(path),
        }
    }

    /// Loads the tokenizer of a Hugging Face model folder: `tokenizer.json`, or GPT-2's
    /// `vocab.json` and `merges.txt`; end tokens from `config.json`, else
    /// `generation_config.json`, else `tokenizer_config.json`.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, DataError> {
        folder::load(folder)
    }

    /// Wraps a tokenizer that is already in memory. `ends` are the end tokens, the one to
    /// append first; it may be empty.
    pub fn new(mut raw: tokenizers::Tokenizer, ends: Vec<u32>) -> Result<Tokenizer, DataError> {
        let post_processor = raw.get_post_processor().cloned();
        let (prefix, suffix) = template(post_processor.as_ref())?;
        raw.with_post_processor(None::<PostProcessorWrapper>);
        raw.with_padding(None::<PaddingParams>);
        raw.with_truncation(None::<TruncationParams>)
            .map_err(|e| DataError::Encode { reason: e.to_string() })?;
        if let ModelWrapper::BPE(bpe) = raw.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            raw.with_model(bpe);
        }
        Ok(Tokenizer(Arc::new(Inner { raw, prefix, suffix, ends })))
    }

    /// The token that closes an example, if the model has one.
    pub fn end_id(&self) -> Option<u32> {
        self.0.ends.first().copied()
    }

    /// Every token that the model takes for an end; the first is the one that is appended.
    pub fn end_ids(&self) -> &[u32] {
        &self.0.ends
    }

    /// The id of a token by its text.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.0.raw.token_to_id(token)
    }

    /// At most `limit` tokens of `text`: template, text, end token; the rest is cut off.
    pub fn encode(&self, text: &str, limit: usize) -> Result<Vec<u32>, DataError> {
        self.text_example(text, limit).map_err(|reason| DataError::Encode { reason })
    }

    /// The tokens of a text that is to be gone on with: what the tokenizer's template begins every text with, if
    /// `template`, then the text, and no end.
    pub fn encode_prompt(&self, text: &str, template: bool) -> Result<Vec<u32>, DataError> {
        self.encode_prompt_head(text, template, usize::MAX)
    }

    /// The same, at least the first `limit` of them: a much longer text takes neither time nor memory for its rest.
    pub fn encode_prompt_head(
        &self,
        text: &str,
        template: bool,
        limit: usize,
    ) -> Result<Vec<u32>, DataError> {
        let prefix = if template { self.prefix() } else { &[] };
        let ids = match text.len() <= LONG_TEXT.max(limit.saturating_mul(8)) {
            true => guarded(|| self.0.raw.encode_fast(text, false)).map(|text| text.get_ids().to_vec()),
            false => self.head(text, limit).map(|head| head.into_iter().map(|token| token.id).collect()),
        };
        let ids = ids.map_err(|reason| DataError::Encode { reason })?;
        Ok([prefix, &ids].concat())
    }

    /// The text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        guarded(|| self.0.raw.decode(ids, true)).map_err(|reason| DataError::Encode { reason })
    }

    pub(super) fn text_example(&self, text: &str, limit: usize) -> Result<Vec<u32>, String> {
        let mut ids = if text.len() <= LONG_TEXT {
            let encoding = guarded(|| self.0.raw.encode_fast(text, false))?;
            self.close(encoding.get_ids().iter().copied())
        } else {
            self.close(self.head(text, limit)?.into_iter().map(|t| t.id))
        };
        ids.truncate(limit);
        Ok(ids)
    }

    /// At most `limit` tokens of prompt and completion, and the index of the first token that
    /// belongs to the completion (it may lie beyond the cut).
    ///
    /// Both are tokenized as the one text that the model will see; a token across the border
    /// belongs to the completion, and so do the template's closing tokens and the end token.
    pub(super) fn pair_example(
        &self,
        prompt: &str,
        completion: &str,
        limit: usize,
    ) -> Result<(Vec<u32>, usize), String> {
        let border = prompt.len();
        let tokens = self.head(&[prompt, completion].concat(), limit)?;
        let belongs = |t: &Token| t.end > border || t.start >= border;
        let first = tokens.iter().position(belongs).unwrap_or(tokens.len()) + self.0.prefix.len();
        let mut ids = self.close(tokens.into_iter().map(|t| t.id));
        ids.truncate(limit);
        Ok((ids, first))
    }

    /// The text's tokens with their places, without template and end token.
    pub(super) fn tokens(&self, text: &str) -> Result<Vec<Token>, String> {
        let encoding = guarded(|| self.0.raw.encode(text, false))?;
        let places = encoding.get_offsets().iter();
        let ids = encoding.get_ids().iter();
        Ok(ids.zip(places).map(|(&id, &(start, end))| Token { id, start, end }).collect())
    }

    /// The first tokens of a text that has its special tokens in it, at least `limit` or all: nothing is added.
    pub(super) fn plain_tokens(&self, text: &str, limit: usize) -> Result<Vec<Token>, String> {
        if text.len() <= LONG_TEXT { self.tokens(text) } else { self.head(text, limit) }
    }

    /// The texts of special tokens, none empty.
    pub(super) fn special_texts(&self) -> Vec<String> {
        let added = self.0.raw.get_added_tokens_decoder();
        let special = added.into_values().filter(|token| token.special && !token.content.is_empty());
        special.map(|token| token.content).collect()
    }

    /// What stands before every encoding.
    pub(super) fn prefix(&self) -> &[u32] {
        &self.0.prefix
    }

    /// What stands after an encoding whose last token of text is `last`.
    pub(super) fn closing(&self, last: Option<u32>) -> Vec<u32> {
        let mut closing = self.0.suffix.clone();
        let last = closing.last().copied().or(last).or(self.0.prefix.last().copied());
        let ended = last.is_some_and(|id| self.0.ends.contains(&id));
        if !ended {
            closing.extend(self.end_id());
        }
        closing
    }

    fn close(&self, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut all = self.0.prefix.clone();
        all.extend(ids);
        let last = all.get(self.0.prefix.len()..).and_then(|text| text.last().copied());
        all.extend(self.closing(last));
        all
    }

    /// All tokens of a text, or at least the first `limit` of a long one, equal to those of
    /// the whole: a row of 200 MB must not become gigabytes of tokens that are then cut off.
    fn head(&self, text: &str, limit: usize) -> Result<Vec<Token>, String> {
        let mut size = LONG_TEXT.max(limit.saturating_mul(8));
        while let Some(end) = cut::word_border(text, size) {
            let mut tokens = self.tokens(&text[..end])?;
            let settled = tokens.iter().take_while(|t| t.end + SETTLED <= end).count();
            if settled >= limit {
                tokens.truncate(settled);
                return Ok(tokens);
            }
            size = size.saturating_mul(4);
        }
        self.tokens(text)
    }
}

/// The ids that a post-processor puts before and after every text.
fn template(post_processor: Option<&PostProcessorWrapper>) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    const TEXT: u32 = u32::MAX;
    let Some(post_processor) = post_processor else { return Ok((vec![], vec![])) };
    let text = Encoding::from_tokens(vec![RawToken::new(TEXT, "text".into(), (0, 4))], 0);
    let processed = guarded(|| post_processor.process(text, None, true))
        .map_err(|e| DataError::Encode { reason: format!("its post-processor fails: {e}") })?;
    let parts: Vec<&[u32]> = processed.get_ids().split(|&id| id == TEXT).collect();
    match parts[..] {
        [prefix, suffix] => Ok((prefix.to_vec(), suffix.to_vec())),
        _ => Err(DataError::Encode {
            reason: "its post-processor does not keep the text once, with special tokens before and after"
                .into(),
        }),
    }
}

#[cfg(test)]
mod tests;

//! A new byte-level BPE tokenizer from text, in the form of GPT-2's.

use super::super::texts::Texts;
use super::DataError;
use super::guard::guarded;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The end of a document; its id is 0.
pub const END: &str = "<|endoftext|>";
/// The begin of a chat message; its id is 1.
pub const MESSAGE_START: &str = "<|im_start|>";
/// The end of a chat message; its id is 2.
pub const MESSAGE_END: &str = "<|im_end|>";
const SPECIAL: [&str; 3] = [END, MESSAGE_START, MESSAGE_END];

/// Every byte and the special tokens: a vocabulary that can write any text.
const SMALLEST: usize = 256 + SPECIAL.len();
/// Four times that of the largest models.
const LARGEST: usize = 1 << 20;
/// More text than this changes no vocabulary that a model could use, but its different words need memory.
const MOST_TEXT: u64 = 1 << 30;
/// What is longer is no word; no token is made for it.
const LONGEST_WORD: usize = 64;

/// ChatML, as `apply_chat_template` renders it.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
    '<|im_start|>assistant\n' }}{% endif %}";

/// A new tokenizer, not yet written to disk.
#[derive(Clone, Debug)]
pub struct NewTokenizer {
    raw: tokenizers::Tokenizer,
    /// Tokens in the vocabulary: as many as were asked for, or fewer if the text is too small.
    pub tokens: usize,
    /// Bytes of text that it was made from.
    pub bytes: u64,
    /// Whether text was left out because there is more than a tokenizer needs.
    pub is_part: bool,
}

impl NewTokenizer {
    /// Learns `vocabulary` tokens from the text of `files`, each JSONL rows or plain text as for a [`Dataset`].
    ///
    /// The first 1 GiB of text is used. The same text gives the same tokenizer: merges in the order of their
    /// count, pairs that occur equally often in the order of their ids.
    ///
    /// [`Dataset`]: crate::data::Dataset
    ///
    /// # Errors
    /// A file that cannot be read or used as data, a vocabulary of less than 259 or more than 1,048,576 tokens.
    pub fn learn(files: &[PathBuf], vocabulary: usize) -> Result<NewTokenizer, DataError> {
        Self::learn_with(files, vocabulary, MOST_TEXT)
    }

    fn learn_with(files: &[PathBuf], vocabulary: usize, most: u64) -> Result<NewTokenizer, DataError> {
        if !(SMALLEST..=LARGEST).contains(&vocabulary) {
            let (smallest, largest) = (SMALLEST, LARGEST);
            return Err(DataError::Vocabulary { asked: vocabulary, smallest, largest });
        }
        let special = SPECIAL.map(|token| AddedToken::from(token, true).normalized(false));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocabulary)
            .special_tokens(special.to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build();
        let splitter = ByteLevel::new(false, true, true);
        let mut feed = Feed { files, open: None, bytes: 0, most, is_part: false, error: Mutex::new(None) };
        let fed = guarded(|| trainer.feed(&mut feed, |text| words(&splitter, text)));
        if let Some(error) = feed.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let (bytes, is_part) = (feed.bytes, feed.is_part);
        let reason = |reason| DataError::Learn { reason };
        fed.map_err(reason)?;
        let mut bpe = BPE::default();
        guarded(|| trainer.train(&mut bpe)).map_err(reason)?;
        let mut raw = tokenizers::Tokenizer::new(bpe);
        raw.with_pre_tokenizer(Some(splitter)).with_decoder(Some(splitter));
        guarded(|| raw.add_special_tokens(special)).map_err(reason)?;
        let tokens = raw.get_vocab_size(true);
        Ok(NewTokenizer { raw, tokens, bytes, is_part })
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which has a chat template, into a folder that may
    /// be there already.
    ///
    /// # Errors
    /// A tokenizer that is there already, and what the system says.
    pub fn save(&self, folder: &Path) -> Result<(), DataError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataError::Io { action, path, source }
        };
        let json = guarded(|| self.raw.to_string(false)).map_err(|reason| DataError::Learn { reason })?;
        let files = [("tokenizer.json", json), ("tokenizer_config.json", settings())];
        std::fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        if let Some((name, _)) = files.iter().find(|(name, _)| folder.join(name).exists()) {
            return Err(DataError::TokenizerExists { path: folder.join(name) });
        }
        for (name, content) in files {
            let path = folder.join(name);
            std::fs::write(&path, content).map_err(io("write", &path))?;
        }
        Ok(())
    }
}

fn settings() -> String {
    let settings = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "eos_token": END,
        "pad_token": END,
        "unk_token": null,
        "additional_special_tokens": [MESSAGE_START, MESSAGE_END],
        "chat_template": CHAT_TEMPLATE,
    });
    format!("{settings:#}\n")
}

/// The words of a text in the letters that stand for bytes.
fn words(splitter: &ByteLevel, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut pieces = PreTokenizedString::from(text);
    splitter.pre_tokenize(&mut pieces)?;
    let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let words = pieces.into_iter().map(|(word, _, _)| word);
    Ok(words.filter(|word| word.chars().count() <= LONGEST_WORD).map(str::to_owned).collect())
}

/// The texts of all files; it ends early at an error, which it keeps.
struct Feed<'a> {
    files: &'a [PathBuf],
    open: Option<Texts>,
    bytes: u64,
    most: u64,
    is_part: bool,
    error: Mutex<Option<DataError>>,
}

impl Feed<'_> {
    fn read(&mut self) -> Result<Option<String>, DataError> {
        loop {
            if let Some(texts) = &mut self.open {
                if let Some(text) = texts.next()? {
                    return Ok(Some(text));
                }
                self.open = None;
            }
            let Some((file, rest)) = self.files.split_first() else { return Ok(None) };
            self.open = Some(Texts::open(file)?);
            self.files = rest;
        }
    }
}

impl Iterator for Feed<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self.read() {
            Ok(Some(_)) if self.bytes >= self.most => {
                self.is_part = true;
                None
            }
            Ok(text) => {
                self.bytes += text.as_ref().map_or(0, |text| text.len() as u64);
                text
            }
            Err(error) => {
                *self.error.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(error);
                self.files = &[];
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;

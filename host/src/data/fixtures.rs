//! Small tokenizers, texts and files for tests.

use super::Tokenizer;
use std::path::PathBuf;
use tempfile::TempDir;
use tokenizers::{
    AddedToken, TokenizerBuilder, TokenizerImpl,
    decoders::byte_level::ByteLevel as Decoder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
    processors::template::TemplateProcessing,
};

/// The end token of [`bpe`].
pub const END: u32 = 0;
/// Its begin token.
pub const BEGIN: u32 = 1;
/// A second end token.
pub const END_OF_TURN: u32 = 2;

pub const WORDS: &str = "the cat sat on the mat and the dog's bone, which wasn't there, said: \"no!\" \
    in 1984 people walked slowly toward the river; caf\u{e9} na\u{ef}ve \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \
    \u{43c}\u{438}\u{440} \u{4f60}\u{597d}\u{4e16}\u{754c} \u{1f600} thing walking talked rivers houses";

/// A byte-level BPE tokenizer as GPT-2's, trained on [`WORDS`], without a template.
pub fn raw_bpe() -> tokenizers::Tokenizer {
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, TemplateProcessing, Decoder> =
        TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_post_processor(None)
            .with_decoder(Some(Decoder::default()))
            .build()
            .unwrap();
    let special = ["<|end|>", "<|begin|>", "<|turn|>"].map(|name| AddedToken::from(name, true));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(400)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, [WORDS].into_iter()).unwrap();
    tokenizer.into()
}

/// [`raw_bpe`] with its end token.
pub fn bpe() -> Tokenizer {
    Tokenizer::new(raw_bpe(), vec![END]).unwrap()
}

/// [`bpe`] with a template that puts the begin token first, and a second end token.
pub fn bpe_with_begin() -> Tokenizer {
    let mut raw = raw_bpe();
    raw.with_post_processor(Some(begin_template()));
    Tokenizer::new(raw, vec![END, END_OF_TURN]).unwrap()
}

pub fn begin_template() -> TemplateProcessing {
    TemplateProcessing::builder()
        .try_single("<|begin|> $A")
        .unwrap()
        .special_tokens(vec![("<|begin|>", BEGIN)])
        .build()
        .unwrap()
}

/// A file of this name with this content; it lives as long as the folder.
pub fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

/// About `bytes` of varied text, the same for the same seed: words, numbers, punctuation, line
/// ends, runs of spaces, several scripts.
pub fn prose(bytes: usize, seed: u64) -> String {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let between =
        [" ", " ", " ", " ", " ", ", ", ". ", "\n", "\n\n", "  ", "\t", "\r\n", " (", "-", "12345 "];
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(words[next(words.len())]);
        text.push_str(between[next(between.len())]);
    }
    text
}

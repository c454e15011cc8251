//! Tokens to text as they come: what is given never changes by what follows, and is never half a character.

use crate::data::{DataError, Tokenizer};

/// Tokens before the new ones that are decoded with them: the tokenizer joins words depending on what is before.
const CONTEXT: usize = 8;
/// Tokens after which text is given as it is: no character has so many.
const WAITING: usize = 64;
const UNKNOWN: char = '\u{fffd}';

/// The text of a sequence of tokens that is being made.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens given last, then those that wait.
    ids: Vec<u32>,
    /// How many of `ids` were given.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that goes on after `prompt`, which is not given.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> TextStream<'a> {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        TextStream { tokenizer, given: ids.len(), ids }
    }

    /// Takes a token and gives the text that is settled now, which may be empty.
    ///
    /// # Errors
    /// The tokenizer cannot decode it.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        let text = self.waiting()?;
        // A character that is not whole yet is decoded to this one.
        if text.is_empty() || (text.ends_with(UNKNOWN) && self.ids.len() - self.given < WAITING) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given.min(self.ids.len().saturating_sub(CONTEXT)));
        self.given = self.ids.len();
        Ok(text)
    }

    /// What still waits, whole or not.
    ///
    /// # Errors
    /// The tokenizer cannot decode it.
    pub fn finish(self) -> Result<String, DataError> {
        self.waiting()
    }

    fn waiting(&self) -> Result<String, DataError> {
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let all = self.tokenizer.decode(&self.ids)?;
        match all.strip_prefix(&before) {
            Some(new) => Ok(new.to_owned()),
            // What was given ended in the middle of a character, or is written otherwise before what follows.
            None => self.tokenizer.decode(&self.ids[self.given..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// GPT-2's bytes, and SentencePiece's words with bytes for what has none.
    fn tokenizers() -> Vec<Tokenizer> {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data");
        ["gpt2/model", "gguf/sentencepiece.gguf"]
            .map(|name| Tokenizer::from_model(&goldens.join(name)).unwrap())
            .into()
    }

    const TEXT: &str = "The river \u{1f469}\u{200d}\u{1f680} caf\u{e9}, na\u{ef}ve; \u{4f60}\u{597d} \u{43c}\u{438}\u{440}  two\n\n\u{1f600}.";

    /// Every piece is whole characters, and together they are what the tokens say, wherever the prompt ends.
    #[test]
    fn a_character_is_given_when_it_is_whole() {
        for tokenizer in tokenizers() {
            let ids = tokenizer.encode_prompt(TEXT, false).unwrap();
            let whole = tokenizer.decode(&ids).unwrap();
            let mut held = 0;
            for prompt in 0..ids.len() {
                let before = tokenizer.decode(&ids[..prompt]).unwrap();
                let Some(expected) = whole.strip_prefix(&before) else { continue };
                let mut stream = TextStream::new(&tokenizer, &ids[..prompt]);
                let mut given = String::new();
                for &id in &ids[prompt..] {
                    let piece = stream.push(id).unwrap();
                    assert!(!piece.contains(UNKNOWN), "{piece:?} after {given:?}");
                    held += usize::from(piece.is_empty());
                    given.push_str(&piece);
                }
                assert_eq!(given + &stream.finish().unwrap(), expected);
            }
            assert!(held > 10, "no token was a part of a character");
        }
    }

    /// A text may end within a character, and bytes may never become one: both are given in the end.
    #[test]
    fn what_never_becomes_a_character_is_given_at_last() {
        for tokenizer in tokenizers() {
            let emoji = tokenizer.encode_prompt("\u{1f600}", false).unwrap();
            let half = &emoji[..emoji.len() - 1];
            let mut stream = TextStream::new(&tokenizer, &[]);
            for &id in half {
                assert!(!stream.push(id).unwrap().contains(UNKNOWN));
            }
            assert!(stream.finish().unwrap().contains(UNKNOWN));
            let mut stream = TextStream::new(&tokenizer, &[]);
            let first = emoji[emoji.len() - 4];
            let given: String = (0..3 * WAITING).map(|_| stream.push(first).unwrap()).collect();
            assert!(given.contains(UNKNOWN), "it waits without an end");
        }
    }
}

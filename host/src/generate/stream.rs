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

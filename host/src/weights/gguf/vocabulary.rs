//! The tokenizer's lists in a GGUF file, as they stand there. What tokenizer they make is the data room's matter.

use serde_json::{Map, Value as Json};

use super::{Gguf, WeightsError};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what no token spells.
    Unknown,
    /// Is no text: begins, ends and separates.
    Control,
    /// A text that is never cut.
    UserDefined,
    /// Is never used.
    Unused,
    /// Stands for one byte.
    Byte,
}

/// The tokenizer's part of the metadata.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    /// `gpt2`, `llama`, ...: how text becomes tokens.
    pub model: &'a str,
    /// How text is cut before, for `gpt2`.
    pub pre: Option<&'a str>,
    /// The tokens, by id.
    pub tokens: &'a [String],
    /// What each is for; as many as tokens.
    pub kinds: Vec<TokenKind>,
    /// For `llama`: the highest score is merged first; as many as tokens.
    pub scores: Option<&'a [f32]>,
    /// For `gpt2`: pairs with a space between, the first merged first.
    pub merges: Option<&'a [String]>,
    /// Whether a space is put in front of a text, if it is said.
    pub add_space_prefix: Option<bool>,
    /// Whether the begin token is put in front, if it is said.
    pub add_bos: Option<bool>,
    /// Whether the end token is put at the end, if it is said.
    pub add_eos: Option<bool>,
    /// Keys of other steps that change the text, which are not known here.
    pub normalization: Option<&'static str>,
    ids: [Option<u32>; ROLES.len()],
    ends: Vec<u32>,
}

/// Keys of single tokens, and their names in chat templates and tokenizer configs.
const ROLES: [(&str, &str); 4] =
    [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];

impl Gguf {
    /// The tokenizer's lists.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] if the file has none, or if they contradict each other.
    pub fn vocabulary(&self) -> Result<Vocabulary<'_>, WeightsError> {
        self.read_vocabulary().map_err(|problem| self.error(problem))
    }

    fn read_vocabulary(&self) -> Result<Vocabulary<'_>, String> {
        let metadata = &self.metadata;
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let model =
            metadata.text(&key("model"))?.ok_or("it has no tokenizer: tokenizer.ggml.model is missing")?;
        let tokens = metadata.texts(&key("tokens"))?.ok_or("tokenizer.ggml.tokens is missing")?;
        let as_many = |name: &str, count: usize| match count == tokens.len() {
            true => Ok(()),
            false => Err(format!("tokenizer.ggml.{name} has {count} values for {} tokens", tokens.len())),
        };
        let kinds = match metadata.i32s(&key("token_type"))? {
            Some(kinds) => {
                as_many("token_type", kinds.len())?;
                kinds
                    .into_iter()
                    .enumerate()
                    .map(|(id, kind)| token_kind(id, kind))
                    .collect::<Result<_, _>>()?
            }
            None => vec![TokenKind::Normal; tokens.len()],
        };
        let scores = metadata.f32s(&key("scores"))?;
        scores.map_or(Ok(()), |scores| as_many("scores", scores.len()))?;
        let id = |role: &str| -> Result<Option<u32>, String> {
            let key = format!("tokenizer.ggml.{role}_token_id");
            match metadata.whole(&key)? {
                // llama.cpp writes -1 as a u32 for a token that there is not.
                None | Some(0xffff_ffff) => Ok(None),
                Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
                Some(id) => Err(format!("{key} is {id}, and there are {} tokens", tokens.len())),
            }
        };
        let mut ids = [None; ROLES.len()];
        for (slot, (role, _)) in ids.iter_mut().zip(ROLES) {
            *slot = id(role)?;
        }
        let mut ends: Vec<u32> = Vec::new();
        for role in ["eos", "eot", "eom"] {
            ends.extend(id(role)?.filter(|id| !ends.contains(id)));
        }
        let normalization =
            ["tokenizer.ggml.precompiled_charsmap"].into_iter().find(|key| metadata.get(key).is_some());
        Ok(Vocabulary {
            model,
            pre: metadata.text(&key("pre"))?,
            tokens,
            kinds,
            scores,
            merges: metadata.texts(&key("merges"))?,
            add_space_prefix: metadata.flag(&key("add_space_prefix"))?,
            add_bos: metadata.flag(&key("add_bos_token"))?,
            add_eos: metadata.flag(&key("add_eos_token"))?,
            normalization,
            ids,
            ends,
        })
    }

    /// The chat template called `name`; `None` for the one without a name.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] if what stands there is no text.
    pub fn chat_template(&self, name: Option<&str>) -> Result<Option<&str>, WeightsError> {
        let key = match name {
            Some(name) => format!("tokenizer.chat_template.{name}"),
            None => "tokenizer.chat_template".to_owned(),
        };
        self.metadata.text(&key).map_err(|problem| self.error(problem))
    }
}

impl Vocabulary<'_> {
    /// The id of the begin token.
    pub fn bos(&self) -> Option<u32> {
        self.ids[0]
    }

    /// The id of the end token.
    pub fn eos(&self) -> Option<u32> {
        self.ids[1]
    }

    /// The id of the token for what no token spells.
    pub fn unknown(&self) -> Option<u32> {
        self.ids[2]
    }

    /// Every token that ends a text, a turn or a message; the end token first.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The special tokens by their names in chat templates and tokenizer configs: `bos_token`, ...
    pub fn specials(&self) -> Map<String, Json> {
        let named = ROLES.iter().zip(self.ids);
        let texts = named.filter_map(|((_, name), id)| {
            Some(((*name).to_owned(), self.tokens.get(id? as usize)?.as_str().into()))
        });
        texts.collect()
    }
}

fn token_kind(id: usize, kind: i32) -> Result<TokenKind, String> {
    Ok(match kind {
        // Some writers leave the type of ordinary tokens at 0.
        0 | 1 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        other => {
            return Err(format!(
                "token {id} has the type {other} in tokenizer.ggml.token_type; expected 1 to 6"
            ));
        }
    })
}

//! Text from a model.
//!
//! A [`Reader`] has the model read tokens: a *prefill* of the prompt in pieces of at most 512, then one token at a
//! time, each by the program that [`crate::models::extend_program`] writes for its number of positions and the
//! capacity of the cache. The cache is state on the device and doubles when it is full. A [`Sampling`] chooses the
//! next token from the logits, and a [`TextStream`] makes text of tokens.

mod cache;
mod error;
mod sampler;
mod stream;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::data::{ChatTemplate, Conversation, DataError, Tokenizer};
use crate::train::session::Session;
use crate::train::source::{AdapterSource, LoraSettings, Source};
use crate::train::{Backend, Event, Observer, PrecisionChoice, StopFlag, TrainError};

pub use cache::Reader;
pub use error::GenerateError;
pub use sampler::Sampling;
pub use stream::TextStream;

/// What to generate.
pub struct GenerateRequest {
    /// The model, as `eval` takes it.
    pub model: PathBuf,
    /// A PEFT adapter on it.
    pub adapter: Option<PathBuf>,
    /// The text to go on with, or what the user says.
    pub prompt: String,
    /// Whether the prompt is what a user says in a conversation, which the model's chat template renders.
    pub chat: bool,
    /// With `chat`: the system message.
    pub system: Option<String>,
    /// With `chat`: a file with a chat template, in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// The precision.
    pub precision: PrecisionChoice,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model gave one of its end tokens.
    EndToken,
    /// There are as many tokens as were asked for.
    MaxTokens,
    /// The model has no more positions.
    Positions(usize),
    /// It was stopped, or nobody reads it.
    Stopped,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub ending: Ending,
    /// Seconds from the first token read to the first one chosen.
    pub prompt_seconds: f64,
    /// Seconds from the first token chosen on.
    pub seconds: f64,
}

/// All that can be known before there is a device: the model's files, the adapter and the prompt fit each other.
pub struct Prepared {
    source: Source,
    adapter: Option<AdapterSource>,
    precision: PrecisionChoice,
    tokenizer: Tokenizer,
    prompt: Vec<u32>,
    ends: Vec<u32>,
    limit: Option<usize>,
}

impl Prepared {
    /// Opens the model and the adapter, and makes tokens of the prompt.
    ///
    /// # Errors
    /// What keeps them from being used.
    pub fn new(request: &GenerateRequest, observer: &mut dyn Observer) -> Result<Prepared, GenerateError> {
        let source = Source::open(&request.model, 0)?;
        let said = LoraSettings { adapter: request.adapter.as_deref(), ..LoraSettings::default() };
        let adapter = match request.adapter {
            Some(_) => Some(AdapterSource::new(&source, &request.model, said)?),
            None => None,
        };
        if source.files.tensors().is_none() {
            let message = "the model has random weights, those of seed 0; it has learned nothing";
            observer.event(&Event::Warning { message: message.into() });
        }
        let tokenizer = Tokenizer::from_model(&request.model)?;
        let template = template(request)?;
        let limit = source.architecture.position_limit();
        let prompt = prompt(request, template.as_ref(), &tokenizer, limit)?;
        check_prompt(&prompt, source.architecture.vocabulary(), limit)?;
        if let Some(message) = beyond_context(&source, prompt.len()) {
            observer.event(&Event::Warning { message });
        }
        let mut ends = end_tokens(&source, &tokenizer)?;
        // A model that was only just taught to chat names no end of a turn, but says it.
        ends.extend(template.and_then(|template| template.end_of_turn(&tokenizer)));
        Ok(Prepared { source, adapter, precision: request.precision, tokenizer, prompt, ends, limit })
    }

    /// Brings the model to a device.
    ///
    /// # Errors
    /// The device does not have the precision or the memory, or a file cannot be read.
    pub fn load(self, backend: Backend, observer: &mut dyn Observer) -> Result<Generator, GenerateError> {
        let precision = backend.precision(self.precision)?;
        let session = Session::new(backend, self.source, self.adapter, precision, false)?;
        let mut reader = Reader::new(session, self.prompt.len())?;
        reader.load(&mut |done, total| observer.progress("loading the model", done, total))?;
        let Prepared { tokenizer, prompt, ends, limit, .. } = self;
        Ok(Generator { tokenizer, reader, prompt, ends, limit })
    }
}

/// A model that is ready to generate.
pub struct Generator {
    tokenizer: Tokenizer,
    reader: Reader,
    prompt: Vec<u32>,
    ends: Vec<u32>,
    limit: Option<usize>,
}

impl Generator {
    /// Generates; hands text on as soon as it is settled, until `text` says that nobody reads it.
    ///
    /// # Errors
    /// The device fails, the model gives no numbers, or the text cannot be handed on.
    pub fn generate(
        &mut self,
        sampling: &Sampling,
        max_tokens: usize,
        stop: &StopFlag,
        mut text: impl FnMut(&str) -> std::io::Result<bool>,
    ) -> Result<Generated, GenerateError> {
        let begun = std::time::Instant::now();
        let mut stream = TextStream::new(&self.tokenizer, &self.prompt);
        let mut tokens = Vec::new();
        let mut next = self.prompt.clone();
        let mut prompt_seconds = 0.0;
        let ending = loop {
            if tokens.len() >= max_tokens {
                break Ending::MaxTokens;
            }
            if let Some(limit) = self.limit.filter(|limit| self.reader.len() + next.len() > *limit) {
                break Ending::Positions(limit);
            }
            let Some(logits) = self.reader.read(&next, || !stop.is_set())? else { break Ending::Stopped };
            let token = sampling.choose(&logits, tokens.len() as u64).map_err(|token| {
                let position = self.reader.len() + 1;
                GenerateError::Logit { value: logits[token], token, position }
            })?;
            if tokens.is_empty() {
                prompt_seconds = begun.elapsed().as_secs_f64();
            }
            if self.ends.contains(&token) {
                break Ending::EndToken;
            }
            tokens.push(token);
            next = vec![token];
            let new = stream.push(token)?;
            if !new.is_empty() && !text(&new)? {
                break Ending::Stopped;
            }
        };
        let rest = stream.finish()?;
        if !rest.is_empty() {
            text(&rest)?;
        }
        tracing::debug!("tokens {tokens:?}");
        let seconds = begun.elapsed().as_secs_f64() - prompt_seconds;
        Ok(Generated { prompt_tokens: self.prompt.len(), tokens, ending, prompt_seconds, seconds })
    }
}

/// The template that renders the prompt, if it is what a user says.
fn template(request: &GenerateRequest) -> Result<Option<ChatTemplate>, GenerateError> {
    if !request.chat {
        let needs_chat = |flag| {
            GenerateError::Settings(format!("{flag} is about asking a chat model; give --chat with it"))
        };
        return match (&request.system, &request.chat_template) {
            (Some(_), _) => Err(needs_chat("--system")),
            (_, Some(_)) => Err(needs_chat("--chat-template")),
            _ => Ok(None),
        };
    }
    if let Some(file) = &request.chat_template {
        return Ok(Some(ChatTemplate::from_file(file, &request.model)?));
    }
    match ChatTemplate::from_model(&request.model)? {
        Some(template) => Ok(Some(template)),
        None => Err(GenerateError::Settings(format!(
            "the model {} has no chat template, so --chat does not know how to ask it; give one by --chat-template \
             FILE, or leave --chat out, and the model goes on with the prompt",
            request.model.display()
        ))),
    }
}

/// The tokens that the model is to go on with.
fn prompt(
    request: &GenerateRequest,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
    limit: Option<usize>,
) -> Result<Vec<u32>, GenerateError> {
    // One more than there may be shows that it is too long.
    let most = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let encode = |text: &str, begin: bool| Ok(tokenizer.encode_prompt_head(text, begin, most)?);
    let Some(template) = template else { return encode(&request.prompt, true) };
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let system = request.system.iter().map(|system| message("system", system));
    let messages: Vec<Value> = system.chain([message("user", &request.prompt)]).collect();
    let text = template.render(&Conversation { messages, tools: None }, true)?;
    // The template writes all special tokens itself.
    encode(&text, false)
}

fn check_prompt(prompt: &[u32], vocabulary: usize, limit: Option<usize>) -> Result<(), GenerateError> {
    let refuse = |message: String| Err(GenerateError::Settings(message));
    if prompt.is_empty() {
        return refuse(
            "the prompt is empty, and the model has no token that begins a text; give a --prompt".into(),
        );
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocabulary) {
        return refuse(format!(
            "the prompt has the token {id}, and the model's vocabulary ends before {vocabulary}; its tokenizer does not \
             belong to it, or the prompt has a special token that the model never learned"
        ));
    }
    match limit {
        Some(limit) if prompt.len() > limit => refuse(format!(
            "the prompt has more than {limit} tokens, and the model has {limit} positions; shorten the prompt"
        )),
        _ => Ok(()),
    }
}

/// What is to be said where a model can read a prompt of so many tokens, but was not made for it.
fn beyond_context(source: &Source, tokens: usize) -> Option<String> {
    let context = source.files.config().get("max_position_embeddings")?.as_u64()?;
    (tokens as u64 > context).then(|| {
        format!(
            "the prompt has {tokens} tokens, and the model was made for {context} positions; what it says may be worth \
             nothing"
        )
    })
}

/// Every token that ends a text: of `generation_config.json`, where chat models name the end of a turn, and those of
/// the tokenizer.
fn end_tokens(source: &Source, tokenizer: &Tokenizer) -> Result<Vec<u32>, GenerateError> {
    let mut ends = tokenizer.end_ids().to_vec();
    let Some(folder) = source.files.side_dir() else { return Ok(ends) };
    let path = folder.join("generation_config.json");
    if path.is_file() {
        let bytes = std::fs::read(&path).map_err(|source| DataError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let config: Value = serde_json::from_slice(&bytes).map_err(|error| {
            GenerateError::Settings(format!("{}: expected a JSON object, but {error}", path.display()))
        })?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match &config["eos_token_id"] {
            Value::Array(list) => ends.extend(list.iter().filter_map(id)),
            one => ends.extend(id(one)),
        }
    }
    Ok(ends)
}

impl From<crate::models::ModelError> for GenerateError {
    fn from(error: crate::models::ModelError) -> GenerateError {
        TrainError::from(error).into()
    }
}

//! Conversations: a model's chat template, rendered as transformers renders it, and which of the text the
//! assistant says.
//!
//! Templates are jinja2's language; they run here in `minijinja`, set up as transformers sets up jinja2 (white
//! space, Python's methods, `tojson`, `raise_exception`, `strftime_now`, `{% generation %}`).

mod bounded;
mod conversation;
mod date;
mod encode;
mod environment;
mod python;
mod source;
mod spans;
#[cfg(test)]
mod tests;

pub use conversation::Conversation;
pub(super) use encode::ChatEncoder;

use super::{DataError, Tokenizer};
use bounded::{BOUNDS, Bounds};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The largest rendering that is kept, in bytes.
const LONGEST_TEXT: usize = 128 << 20;
/// The day that templates are told where the text must be the same on every day: 26 July 2024, which the
/// templates that name a day take where they are told none.
const FIXED_DAY: Duration = Duration::from_secs(1_721_952_000);

/// A model's chat template. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChatTemplate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: Vec<String>,
    specials: Map<String, Json>,
    environment: Environment<'static>,
    /// Whether the template marks by itself what the assistant says; the second where tools are given.
    marks: [bool; 2],
    tool_use: bool,
}

/// A text and the byte ranges that `{% generation %}` blocks gave.
struct Marked {
    text: String,
    blocks: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// The template of a GGUF file or of a model folder (or of the folder of a file in it): `chat_template.jinja`,
    /// else `chat_template` in `tokenizer_config.json`; `None` if it has none.
    pub fn from_model(path: &Path) -> Result<Option<ChatTemplate>, DataError> {
        let source = source::read(path)?;
        let Some(default) = source.default else { return Ok(None) };
        let sources = [Some(default), source.tool_use].into_iter().flatten().collect();
        let template = Self::build(sources, source.specials, SystemTime::now());
        template.map(Some).map_err(|reason| DataError::BadChatTemplate { path: path.into(), reason })
    }

    /// The template in a file of its own, with a model's special tokens.
    pub fn from_file(file: &Path, model: &Path) -> Result<ChatTemplate, DataError> {
        let Some(text) = source::text(file)? else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(DataError::Io { action: "open", path: file.into(), source });
        };
        let specials = source::read(model)?.specials;
        Self::build(vec![text], specials, SystemTime::now())
            .map_err(|reason| DataError::BadChatTemplate { path: file.into(), reason })
    }

    /// A template from its source; `specials` are the special tokens by their names in templates (`bos_token`, ...).
    pub fn new(source: &str, specials: Map<String, Json>) -> Result<ChatTemplate, DataError> {
        Self::build(vec![source.to_owned()], specials, SystemTime::now())
            .map_err(|reason| DataError::ChatTemplate { reason })
    }

    fn build(
        sources: Vec<String>,
        specials: Map<String, Json>,
        now: SystemTime,
    ) -> Result<ChatTemplate, String> {
        bounded::run(BOUNDS, move || Self::read(sources, specials, now))
    }

    fn read(
        sources: Vec<String>,
        specials: Map<String, Json>,
        now: SystemTime,
    ) -> Result<ChatTemplate, String> {
        let mut environment = environment::environment(now);
        let mut marks = [false; 2];
        for ((source, name), marks) in sources.iter().zip(["default", "tool_use"]).zip(&mut marks) {
            *marks = environment::add(&mut environment, name, source)?;
        }
        let tool_use = sources.len() > 1;
        Ok(ChatTemplate(Arc::new(Inner { sources, specials, environment, marks, tool_use })))
    }

    /// The same template, told a fixed day where it asks for today's, so that data has the same tokens tomorrow.
    pub(super) fn with_fixed_day(&self) -> Result<ChatTemplate, DataError> {
        let (sources, specials) = (self.0.sources.clone(), self.0.specials.clone());
        Self::build(sources, specials, UNIX_EPOCH + FIXED_DAY)
            .map_err(|reason| DataError::ChatTemplate { reason })
    }

    /// A hash of the template and its special tokens: what has the same renders rows to the same text.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for part in self.0.sources.iter().cloned().chain([Json::from(self.0.specials.clone()).to_string()]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The conversation's text; with the beginning of an answer if `add_generation_prompt`.
    pub fn render(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        let marked =
            self.marked(&conversation.values()?, conversation.tools.as_deref(), add_generation_prompt);
        marked.map(|marked| marked.text).map_err(|reason| DataError::ChatTemplate { reason })
    }

    /// The token that ends what the assistant says, where a sample conversation shows one. Not every model whose
    /// template writes it names it as an end token.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let specials = tokenizer.special_texts();
        let shape = spans::Shape::learn(self, &specials);
        tokenizer.id(shape.end_token(&specials)?)
    }

    fn marks(&self, tools: bool) -> bool {
        self.0.marks[usize::from(tools && self.0.tool_use)]
    }

    fn marked(&self, messages: &[Value], tools: Option<&[Json]>, prompt: bool) -> Result<Marked, String> {
        self.marked_within(BOUNDS, messages, tools, prompt)
    }

    fn marked_within(
        &self,
        bounds: Bounds,
        messages: &[Value],
        tools: Option<&[Json]>,
        prompt: bool,
    ) -> Result<Marked, String> {
        let name = if tools.is_some() && self.0.tool_use { "tool_use" } else { "default" };
        let mut context: Vec<(String, Value)> =
            self.0.specials.iter().map(|(key, value)| (key.clone(), Value::from_serialize(value))).collect();
        context.push(("messages".into(), messages.iter().cloned().collect()));
        context.push(("tools".into(), tools.map_or(Value::from(()), Value::from_serialize)));
        context.push(("documents".into(), Value::from(())));
        context.push(("add_generation_prompt".into(), prompt.into()));
        let (template, context) = (self.clone(), context.into_iter().collect());
        let text = bounded::run(bounds, move || template.text(name, context))?;
        match self.marks(tools.is_some()) {
            true => unmark(&text),
            false => Ok(Marked { text, blocks: vec![] }),
        }
    }

    fn text(&self, name: &str, context: Value) -> Result<String, String> {
        let mut out = Limited(Vec::new());
        let template = self.0.environment.get_template(name);
        let rendered = template.and_then(|template| template.render_captured_to(context, &mut out).map(drop));
        rendered.map_err(|error| environment::sentence(&error))?;
        String::from_utf8(out.0).map_err(|_| "it does not give text".to_owned())
    }
}

/// Takes the marks out of a text.
fn unmark(text: &str) -> Result<Marked, String> {
    let (mut out, mut blocks, mut open) = (String::with_capacity(text.len()), vec![], None);
    for c in text.chars() {
        match (c, open) {
            (environment::BLOCK_BEGIN, None) => open = Some(out.len()),
            (environment::BLOCK_END, Some(begin)) => {
                blocks.push(begin..out.len());
                open = None;
            }
            (environment::BLOCK_BEGIN | environment::BLOCK_END, _) => {
                return Err("its {% generation %} blocks do not follow one another in the text".into());
            }
            _ => out.push(c),
        }
    }
    Ok(Marked { text: out, blocks })
}

/// Takes no more than [`LONGEST_TEXT`].
struct Limited(Vec<u8>);

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_TEXT {
            return Err(std::io::Error::other(format!("the text would be longer than {LONGEST_TEXT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

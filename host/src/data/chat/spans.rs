//! Which bytes of a rendered conversation the assistant says.
//!
//! Templates with `{% generation %}` blocks say it themselves. For the others the conversation is rendered in
//! parts: what the text up to a turn with the prompt for an answer shares with the whole is where the turn begins,
//! and the text up to and with the turn is where it ends. Where a template writes earlier turns in another way
//! than the last (leaves out reasoning, moves tools), the turn is found by putting a mark into its place and into
//! that of the message after it, together with what a short sample conversation shows of how turns begin and end.
//! A turn whose place is not certain is an error.

use super::{ChatTemplate, Conversation};
use minijinja::Value;
use serde_json::{Value as Json, json};
use std::ops::Range;

/// Stands in the place of a message: a character that no message has.
const MARK: &str = "\u{10fffe}";
const SAMPLE: [&str; 4] = ["Which is first?", "This is first.", "Which is next?", "This is next."];

/// How a template begins and ends the assistant's turns, as far as a sample shows it.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// What the prompt for an answer adds, and what then stands before the content; of an earlier turn and the last.
    heads: Vec<(String, String)>,
    /// What stands after the content.
    end: String,
    /// What the template writes after every conversation, asked or not: the prompt for an answer of some templates.
    tail: String,
}

/// Finds the turns of one conversation.
pub(super) struct Finder<'a> {
    pub template: &'a ChatTemplate,
    pub shape: &'a Shape,
    /// The texts of special tokens.
    pub specials: &'a [String],
}

/// A rendered conversation and where in it the assistant's turns are that count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turns {
    pub text: String,
    pub spans: Vec<Range<usize>>,
}

struct Parts<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Value>,
    tools: Option<&'a [Json]>,
}

impl Parts<'_> {
    fn up_to(&self, count: usize, prompt: bool) -> Result<String, String> {
        self.template.marked(&self.messages[..count], self.tools, prompt).map(|marked| marked.text)
    }

    /// The whole, with a mark in place of a message's content, or of all of the message.
    fn marked(&self, at: usize, message: &Json, whole: bool) -> Result<String, String> {
        let mut with_mark = message.as_object().cloned().unwrap_or_default();
        if whole {
            with_mark.retain(|key, _| key == "role");
        }
        with_mark.insert("content".into(), MARK.into());
        let mut messages = self.messages.clone();
        messages[at] = Value::from_serialize(with_mark);
        self.template.marked(&messages, self.tools, false).map(|marked| marked.text)
    }
}

impl Shape {
    /// What the sample shows; a template that cannot render it has an empty shape.
    pub fn learn(template: &ChatTemplate, specials: &[String]) -> Shape {
        Self::try_learn(template, specials).unwrap_or_default()
    }

    fn try_learn(template: &ChatTemplate, specials: &[String]) -> Option<Shape> {
        let roles = ["user", "assistant", "user", "assistant"];
        let message = |(role, content)| Value::from_serialize(json!({"role": role, "content": content}));
        let messages = roles.into_iter().zip(SAMPLE).map(message).collect();
        let parts = Parts { template, messages, tools: None };
        let whole = parts.up_to(4, false).ok()?;
        let (asked, one) = (parts.up_to(1, true).ok()?, parts.up_to(2, false).ok()?);
        let unasked = parts.up_to(1, false).ok()?;
        let after = &one[one.rfind(SAMPLE[1])? + SAMPLE[1].len()..];
        let mut tail = String::new();
        if !whole.starts_with(&one) && asked == unasked {
            let first = first_special(after, specials)?;
            if asked.ends_with(&after[first..]) {
                tail = after[first..].to_owned();
            }
        }
        let end = after.strip_suffix(tail.as_str())?.to_owned();
        let head = |count: usize, content: &str| {
            let unasked = parts.up_to(count, false).ok()?;
            let unasked = unasked.strip_suffix(tail.as_str())?;
            let asked = parts.up_to(count, true).ok()?;
            let content = whole.find(content)?;
            let begin = common(&asked, &whole[..content]);
            let before = whole.get(unasked.len()..begin)?;
            Some((before.to_owned(), whole[begin..content].to_owned()))
        };
        let mut heads = vec![head(1, SAMPLE[1])?, head(3, SAMPLE[3])?];
        heads.sort_by_key(|(head, before)| std::cmp::Reverse(head.len() + before.len()));
        heads.dedup();
        Some(Shape { heads, end, tail })
    }
}

impl Shape {
    /// The special token by which the assistant's turns end.
    pub fn end_token<'a>(&self, specials: &'a [String]) -> Option<&'a str> {
        let found = specials.iter().filter_map(|special| Some((self.end.find(special.as_str())?, special)));
        let first = found.min_by_key(|(at, special)| (*at, std::cmp::Reverse(special.len())));
        first.map(|(_, special)| special.as_str())
    }
}

impl Finder<'_> {
    /// The conversation's text and the assistant's turns in it.
    pub fn turns(&self, conversation: &Conversation) -> Result<Turns, String> {
        let messages = conversation.values().map_err(|e| e.to_string())?;
        let (all, tools) = (&conversation.messages, conversation.tools.as_deref());
        let said = (0..all.len()).filter(|&i| Conversation::is_assistant(&all[i]));
        if self.template.marks(tools.is_some()) {
            let marked = self.template.marked(&messages, tools, false)?;
            return chosen(marked.text, marked.blocks, said.map(|i| Conversation::counts(&all[i])).collect());
        }
        if all.iter().any(|message| message.to_string().contains(MARK)) {
            return Err("a message has the noncharacter U+10FFFE; take it out".into());
        }
        let parts = Parts { template: self.template, messages, tools };
        let whole = parts.up_to(all.len(), false)?;
        let whole = whole.strip_suffix(self.shape.tail.as_str()).unwrap_or(&whole);
        let (mut spans, mut from) = (vec![], 0);
        for i in said {
            let place = self.turn(&parts, whole, all, i).and_then(|(begin, end)| {
                match from <= begin && begin <= end {
                    true => Ok((begin, end)),
                    false => Err("its place in the text overlaps another's".to_owned()),
                }
            });
            let (begin, end) = place.map_err(|reason| {
                format!(
                    "what the assistant says in message {} cannot be told apart in the text that the chat template \
                     makes: {reason}; give a template with {{% generation %}} blocks by --chat-template FILE",
                    i + 1
                )
            })?;
            from = end;
            if Conversation::counts(&all[i]) {
                spans.push(begin..self.without_space(&whole[begin..end]) + begin);
            }
        }
        Ok(Turns { text: whole.to_owned(), spans })
    }

    /// Where in the whole message `i`, the assistant's, begins and ends.
    fn turn(&self, parts: &Parts, whole: &str, all: &[Json], i: usize) -> Result<(usize, usize), String> {
        let begin = self.begin(parts, whole, all, i)?;
        let with = parts.up_to(i + 1, false)?;
        let with = with.strip_suffix(self.shape.tail.as_str()).unwrap_or(&with);
        if whole.starts_with(with) && begin <= with.len() && self.is_end(with) {
            return Ok((begin, with.len()));
        }
        Ok((begin, self.end_before_next(parts, whole, all, i, begin)?))
    }

    fn begin(&self, parts: &Parts, whole: &str, all: &[Json], i: usize) -> Result<usize, String> {
        // Some templates refuse a conversation without messages.
        let parted = match i {
            0 => None,
            _ => parts.up_to(i, false).ok().zip(parts.up_to(i, true).ok()),
        };
        if let Some((unasked, asked)) = &parted {
            let unasked = unasked.strip_suffix(self.shape.tail.as_str()).unwrap_or(unasked);
            if whole.starts_with(asked.as_str()) && asked.starts_with(unasked) {
                return Ok(asked.len());
            }
        }
        let marked = parts.marked(i, &all[i], true)?;
        let content = common(&marked, whole);
        let before = &whole[..content];
        for (head, lead) in &self.shape.heads {
            if before.strip_suffix(lead.as_str()).is_some_and(|before| before.ends_with(head.as_str())) {
                return Ok(content - lead.len());
            }
            if !head.is_empty() && before.ends_with(head.as_str()) {
                return Ok(content);
            }
        }
        if self.shape.heads.iter().any(|(head, _)| head.is_empty()) {
            return Ok(content);
        }
        Err("the text before it is not the one that asks for an answer".into())
    }

    /// The last end of a turn before the content of the next message.
    fn end_before_next(
        &self,
        parts: &Parts,
        whole: &str,
        all: &[Json],
        i: usize,
        begin: usize,
    ) -> Result<usize, String> {
        let end = &self.shape.end;
        if end.is_empty() {
            return Err(
                "the template puts no end token after it, and writes it in another way once more follows"
                    .into(),
            );
        }
        let Some(next) = all.get(i + 1) else {
            return match whole.ends_with(end.as_str()) {
                true => Ok(whole.len()),
                false => Err("the text does not end as turns end".into()),
            };
        };
        let limit = common(&parts.marked(i + 1, next, false)?, whole);
        let between = whole.get(begin..limit).ok_or("the next message begins before it")?;
        let at = between.rfind(end.as_str()).ok_or("no end of a turn follows it")?;
        Ok(begin + at + end.len())
    }

    /// Whether a text may end here: it does as turns do, if that is known.
    fn is_end(&self, text: &str) -> bool {
        text.ends_with(self.shape.end.as_str())
    }

    /// The length of a turn without the white space after a closing special token, which the model is never to say.
    fn without_space(&self, turn: &str) -> usize {
        let trimmed = turn.trim_end();
        match self.specials.iter().any(|special| trimmed.ends_with(special.as_str())) {
            true => trimmed.len(),
            false => turn.len(),
        }
    }
}

/// The blocks of the messages that count. Without weights every block does, as in transformers.
fn chosen(text: String, blocks: Vec<Range<usize>>, counts: Vec<bool>) -> Result<Turns, String> {
    if counts.iter().all(|&counts| counts) {
        return Ok(Turns { text, spans: blocks });
    }
    if blocks.len() != counts.len() {
        return Err(format!(
            "the row leaves messages out of the loss, but the template has {} {{% generation %}} blocks for {} \
             messages of the assistant",
            blocks.len(),
            counts.len()
        ));
    }
    let spans =
        blocks.into_iter().zip(counts).filter_map(|(block, counts)| counts.then_some(block)).collect();
    Ok(Turns { text, spans })
}

/// Bytes that two texts begin with alike, whole characters.
fn common(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=same).rev().find(|&at| b.is_char_boundary(at)).unwrap_or(0)
}

/// The end of the first special token in a text.
fn first_special(text: &str, specials: &[String]) -> Option<usize> {
    let found =
        specials.iter().filter_map(|special| text.find(special.as_str()).map(|at| (at, at + special.len())));
    found.min_by_key(|&(at, end)| (at, std::cmp::Reverse(end))).map(|(_, end)| end)
}

//! Conversations to examples.

use super::spans::{Finder, Shape, Turns};
use super::{ChatTemplate, Conversation};
use crate::data::{DataError, Example, Tokenizer};

/// More messages than this are no conversation that a model is trained on, and finding turns would take too long.
const MOST_MESSAGES: usize = 10_000;

/// Makes examples of conversations: the template's text, tokenized as a whole, with the loss on what the
/// assistant says.
#[derive(Debug)]
pub(in super::super) struct ChatEncoder {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    shape: Shape,
    specials: Vec<String>,
}

impl ChatEncoder {
    pub fn new(template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<ChatEncoder, DataError> {
        let template = template.with_fixed_day()?;
        let specials = tokenizer.special_texts();
        let shape = Shape::learn(&template, &specials);
        Ok(ChatEncoder { template, tokenizer: tokenizer.clone(), shape, specials })
    }

    /// At most `limit` tokens. A longer conversation is cut after the last of the assistant's turns that fits; if
    /// not even the first fits, at the limit.
    pub fn example(&self, conversation: &Conversation, limit: usize) -> Result<Example, String> {
        let count = conversation.messages.len();
        if count > MOST_MESSAGES {
            return Err(format!("it has {count} messages; at most {MOST_MESSAGES} are taken"));
        }
        let rendered = self.render(conversation)?;
        if self.tokenizer.plain_tokens(&rendered, limit + 1)?.len() <= limit {
            return self.encode(conversation, limit);
        }
        let ends: Vec<usize> =
            (1..=count).filter(|&i| Conversation::is_assistant(&conversation.messages[i - 1])).collect();
        let first_turns = |messages: usize| Conversation {
            messages: conversation.messages[..messages].to_vec(),
            tools: conversation.tools.clone(),
        };
        // Lengths grow with the turns, so halving finds the last that fits.
        let (mut fits, mut too_long) = (0, ends.len());
        while too_long > fits + 1 {
            let middle = (fits + too_long) / 2;
            let text = self.render(&first_turns(ends[middle - 1]))?;
            match self.tokenizer.plain_tokens(&text, limit + 1)?.len() <= limit {
                true => fits = middle,
                false => too_long = middle,
            }
        }
        // With a single turn or none that fits, that turn is cut hard.
        let kept = ends.get(fits.max(1) - 1).copied().unwrap_or(count);
        let example = self.encode(&first_turns(kept), limit)?;
        Ok(Example { truncated: true, ..example })
    }

    fn render(&self, conversation: &Conversation) -> Result<String, String> {
        let messages = conversation.values().map_err(|e| e.to_string())?;
        let marked = self.template.marked(&messages, conversation.tools.as_deref(), false);
        marked.map(|marked| marked.text).map_err(|reason| format!("the chat template: {reason}"))
    }

    /// A token belongs to the assistant if it begins where the assistant speaks.
    fn encode(&self, conversation: &Conversation, limit: usize) -> Result<Example, String> {
        let finder = Finder { template: &self.template, shape: &self.shape, specials: &self.specials };
        let Turns { text, spans } = finder.turns(conversation)?;
        let tokens = self.tokenizer.plain_tokens(&text, limit + 1)?;
        let truncated = tokens.len() > limit;
        let kept = &tokens[..tokens.len().min(limit)];
        let said = |at: usize| {
            let before = spans.partition_point(|span| span.end <= at);
            spans.get(before).is_some_and(|span| span.contains(&at))
        };
        let weights = kept.iter().skip(1).map(|token| if said(token.start) { 1.0 } else { 0.0 }).collect();
        Ok(Example { tokens: kept.iter().map(|token| token.id).collect(), weights, truncated })
    }
}

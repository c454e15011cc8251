//! Against transformers (`tests/goldens/chat.py`), and adversarial templates and rows.

mod examples;
mod goldens;
mod turns;

use super::spans::{Finder, Shape};
use super::*;
use serde_json::json;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn specials() -> Vec<String> {
    ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>"]
        .map(String::from)
        .into()
}

fn template(source: &str) -> ChatTemplate {
    let specials = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ChatTemplate::new(source, specials.as_object().unwrap().clone()).unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Conversation {
    let messages = turns.iter().map(|(role, content)| json!({"role": role, "content": content}));
    Conversation { messages: messages.collect(), tools: None }
}

/// The texts of the assistant's turns.
fn said(template: &ChatTemplate, conversation: &Conversation) -> Result<Vec<String>, String> {
    let specials = specials();
    let shape = Shape::learn(template, &specials);
    let turns = Finder { template, shape: &shape, specials: &specials }.turns(conversation)?;
    Ok(turns.spans.iter().map(|span| turns.text[span.clone()].to_owned()).collect())
}

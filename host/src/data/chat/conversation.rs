//! A conversation as rows have it, in the shape that templates take.

use super::super::DataError;
use super::environment::{BLOCK_BEGIN, BLOCK_END};
use minijinja::Value;
use serde_json::{Map, Value as Json};

/// Names under which a message's reasoning is given; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Messages, and the tools that the assistant may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with `role` and, as the template wants them, `content`, `tool_calls`, ...
    pub messages: Vec<Json>,
    /// JSON schemas.
    pub tools: Option<Vec<Json>>,
}

impl Conversation {
    /// From the values of a row's `messages` and `tools`; the problem, if they have another shape.
    pub(in super::super) fn from_row(messages: Json, tools: Option<Json>) -> Result<Conversation, String> {
        let Json::Array(messages) = messages else { return Err("\"messages\" is not a list".into()) };
        if messages.is_empty() {
            return Err("\"messages\" is empty".into());
        }
        for (i, message) in messages.iter().enumerate() {
            check(message).map_err(|problem| format!("message {}: {problem}", i + 1))?;
        }
        let tools = match tools {
            None | Some(Json::Null) => None,
            Some(Json::Array(list)) if list.iter().all(Json::is_object) => Some(list),
            Some(_) => return Err("\"tools\" is not a list of objects".into()),
        };
        Ok(Conversation { messages, tools })
    }

    /// From ShareGPT's spelling: `conversations` of `from` and `value`.
    pub(in super::super) fn from_sharegpt(turns: Json, tools: Option<Json>) -> Result<Conversation, String> {
        let Json::Array(turns) = turns else { return Err("\"conversations\" is not a list".into()) };
        let messages = turns.into_iter().enumerate().map(|(i, turn)| {
            let problem = |what: &str| format!("turn {} of \"conversations\" {what}", i + 1);
            if turn.get("role").is_some() {
                return Ok(turn);
            }
            let role = match turn.get("from").and_then(Json::as_str) {
                Some("human" | "user") => "user",
                Some("gpt" | "assistant" | "model") => "assistant",
                Some("system") => "system",
                Some("tool" | "observation") => "tool",
                Some(other) => {
                    return Err(problem(&format!("is from {other:?}, which is no role that is known")));
                }
                None => return Err(problem("has no \"from\"")),
            };
            let Json::Object(mut turn) = turn else { return Err(problem("is not an object")) };
            let content = turn.remove("value").ok_or_else(|| problem("has no \"value\""))?;
            turn.remove("from");
            let own = [("role".to_owned(), role.into()), ("content".to_owned(), content)];
            Ok(Json::Object(own.into_iter().chain(turn).collect()))
        });
        Conversation::from_row(Json::Array(messages.collect::<Result<_, _>>()?), tools)
    }

    /// The messages as templates see them: keys without a value left out, reasoning under the name that they read.
    pub(super) fn values(&self) -> Result<Vec<Value>, DataError> {
        let has_marks = |json: &Json| json.to_string().contains([BLOCK_BEGIN, BLOCK_END]);
        if self.messages.iter().chain(self.tools.iter().flatten()).any(has_marks) {
            let reason = "a message has one of the noncharacters U+FDD0 and U+FDD1; take them out".into();
            return Err(DataError::ChatTemplate { reason });
        }
        Ok(self.messages.iter().map(|message| Value::from_serialize(normal(message))).collect())
    }

    pub(super) fn is_assistant(message: &Json) -> bool {
        message.get("role").and_then(Json::as_str) == Some("assistant")
    }

    /// Whether a message of the assistant counts in the loss: not with `"weight": 0` or `"train": false`.
    pub(super) fn counts(message: &Json) -> bool {
        let weightless = message.get("weight").and_then(Json::as_f64) == Some(0.0);
        let untrained = message.get("train") == Some(&Json::Bool(false));
        !weightless && !untrained
    }
}

fn check(message: &Json) -> Result<(), String> {
    let Json::Object(message) = message else { return Err("it is not an object".into()) };
    match message.get("role") {
        Some(Json::String(role)) if !role.is_empty() => {}
        Some(_) => return Err("its \"role\" is not a string".into()),
        None => return Err("it has no \"role\"".into()),
    }
    match message.get("content") {
        None | Some(Json::Null | Json::String(_)) => {}
        Some(Json::Array(parts)) if parts.iter().all(|part| part.is_object() || part.is_string()) => {}
        Some(_) => return Err("its \"content\" is neither a string nor a list of parts".into()),
    }
    match message.get("tool_calls") {
        None | Some(Json::Null | Json::Array(_)) => {}
        Some(_) => return Err("its \"tool_calls\" is not a list".into()),
    }
    match message.get("weight") {
        None | Some(Json::Null) => Ok(()),
        Some(weight) if weight.as_f64().is_some_and(|weight| weight == 0.0 || weight == 1.0) => Ok(()),
        Some(_) => Err("its \"weight\" is neither 0 nor 1".into()),
    }
}

fn normal(message: &Json) -> Json {
    let Json::Object(entries) = message else { return message.clone() };
    let entries = entries.iter().filter(|(_, value)| !value.is_null());
    let mut entries: Map<String, Json> = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|key| entries.get(*key)).cloned() {
        entries.entry("thinking").or_insert_with(|| reasoning.clone());
        entries.insert("reasoning_content".into(), reasoning);
    }
    Json::Object(entries)
}

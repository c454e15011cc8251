//! One line of a JSONL file.

use super::super::Conversation;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use std::{borrow::Cow, fmt};

/// A row as it stands in the file; its strings are borrowed from the line where JSON allows.
#[derive(Debug, PartialEq)]
pub(super) enum Row<'a> {
    Text(Cow<'a, str>),
    Pair { prompt: Cow<'a, str>, completion: Cow<'a, str> },
    Chat(Conversation),
}

/// Why a line is not a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Array,
    Other(String),
}

pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// Reads a line that is not blank.
pub(super) fn parse(line: &[u8]) -> Result<Row<'_>, Fault> {
    let line = std::str::from_utf8(line)
        .map_err(|e| Fault::Other(format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1)))?;
    match line.trim_ascii_start().as_bytes().first() {
        Some(b'{') => {}
        Some(b'[') => return Err(Fault::Array),
        _ => return Err(Fault::Other("the line is not a JSON object".into())),
    }
    let fields: Fields = serde_json::from_str(line).map_err(|e| Fault::Other(json_problem(&e)))?;
    fields.row()
}

/// serde_json counts lines within the text it got, which is always our one line.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    match error.classify() {
        serde_json::error::Category::Data => format!("{problem} (column {})", error.column()),
        _ => format!("bad JSON at column {}: {problem}", error.column()),
    }
}

#[derive(Default)]
struct Fields<'a> {
    text: Option<Field<'a>>,
    prompt: Option<Field<'a>>,
    completion: Option<Field<'a>>,
    messages: Option<Value>,
    conversations: Option<Value>,
    tools: Option<Value>,
}

impl<'a> Fields<'a> {
    fn row(self) -> Result<Row<'a>, Fault> {
        let other = |problem: &str| Err(Fault::Other(problem.into()));
        match (self.text, self.prompt, self.completion) {
            (Some(text), None, None) => Ok(Row::Text(text.string("text")?)),
            (None, Some(prompt), Some(completion)) => Ok(Row::Pair {
                prompt: prompt.string("prompt")?,
                completion: completion.string("completion")?,
            }),
            (Some(_), _, _) => other("the row has both \"text\" and \"prompt\" or \"completion\""),
            (None, Some(_), None) => other("the row has a \"prompt\" but no \"completion\""),
            (None, None, Some(_)) => other("the row has a \"completion\" but no \"prompt\""),
            (None, None, None) => match (self.messages, self.conversations) {
                (Some(messages), _) => {
                    Conversation::from_row(messages, self.tools).map(Row::Chat).map_err(Fault::Other)
                }
                (None, Some(turns)) => {
                    Conversation::from_sharegpt(turns, self.tools).map(Row::Chat).map_err(Fault::Other)
                }
                (None, None) => {
                    other("the row has neither \"text\" nor \"prompt\" and \"completion\" nor \"messages\"")
                }
            },
        }
    }
}

enum Field<'a> {
    String(Cow<'a, str>),
    Other(&'static str),
}

impl<'a> Field<'a> {
    fn string(self, key: &str) -> Result<Cow<'a, str>, Fault> {
        match self {
            Field::String(text) => Ok(text),
            Field::Other(kind) => Err(Fault::Other(format!("\"{key}\" is {kind}, not a string"))),
        }
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Text,
    Prompt,
    Completion,
    Messages,
    Conversations,
    Tools,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key()? {
            let (name, field) = match key {
                Key::Text => ("text", &mut fields.text),
                Key::Prompt => ("prompt", &mut fields.prompt),
                Key::Completion => ("completion", &mut fields.completion),
                Key::Messages | Key::Conversations | Key::Tools => {
                    let (name, field) = match key {
                        Key::Messages => ("messages", &mut fields.messages),
                        Key::Conversations => ("conversations", &mut fields.conversations),
                        _ => ("tools", &mut fields.tools),
                    };
                    if field.replace(map.next_value()?).is_some() {
                        return Err(de::Error::custom(format!("the row has \"{name}\" twice")));
                    }
                    continue;
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if field.replace(map.next_value()?).is_some() {
                return Err(de::Error::custom(format!("the row has \"{name}\" twice")));
            }
        }
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::String(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::String(Cow::Owned(text.into())))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
        Ok(Field::Other("a boolean"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_unit<E>(self) -> Result<Field<'de>, E> {
        Ok(Field::Other("null"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("a list"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: &str) -> String {
        match parse(line.as_bytes()) {
            Err(Fault::Other(problem)) => problem,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn both_kinds_of_row_and_extra_keys() {
        assert_eq!(parse(br#"{"text": "a\u00e9\n"}"#), Ok(Row::Text("a\u{e9}\n".into())));
        let pair = Row::Pair { prompt: "p".into(), completion: "".into() };
        assert_eq!(
            parse(br#" {"id": [1, {"text": 2}], "completion": "", "prompt": "p", "messages": 1} "#),
            Ok(pair)
        );
        // an escaped key is the same key
        assert_eq!(parse(br#"{"te\u0078t": "a"}"#), Ok(Row::Text("a".into())));
    }

    #[test]
    fn a_plain_string_is_borrowed_not_copied() {
        assert!(matches!(parse(br#"{"text": "abc"}"#), Ok(Row::Text(Cow::Borrowed("abc")))));
    }

    #[test]
    fn every_fault_says_what_is_wrong() {
        assert_eq!(
            problem("{}"),
            r#"the row has neither "text" nor "prompt" and "completion" nor "messages""#
        );
        assert!(problem(r#"{"text":"a","prompt":"b","completion":"c"}"#).contains("both"));
        assert!(problem(r#"{"text":"a","completion":"c"}"#).contains("both"));
        assert!(problem(r#"{"prompt":"b"}"#).contains("no \"completion\""));
        assert!(problem(r#"{"completion":"b"}"#).contains("no \"prompt\""));
        assert_eq!(problem(r#"{"text":1}"#), r#""text" is a number, not a string"#);
        assert_eq!(problem(r#"{"text":null}"#), r#""text" is null, not a string"#);
        assert_eq!(
            problem(r#"{"prompt":"a","completion":["b"]}"#),
            r#""completion" is a list, not a string"#
        );
        assert_eq!(problem(r#"{"text":{"a":1}}"#), r#""text" is an object, not a string"#);
        assert_eq!(problem(r#"{"text":true}"#), r#""text" is a boolean, not a string"#);
        assert!(problem(r#"{"text":"a","text":"b"}"#).contains("\"text\" twice"));
        assert_eq!(problem("3"), "the line is not a JSON object");
        assert!(problem(r#"{"text":"a"} x"#).starts_with("bad JSON at column 14"));
        assert!(problem("{").starts_with("bad JSON"));
        assert!(problem(r#"{"text":"\ud800"}"#).starts_with("bad JSON"), "a lone surrogate is no text");
        // deep nesting must not overflow the stack, in a key we read or one we ignore
        for key in ["x", "text"] {
            let line = format!("{{\"{key}\":{}", "[".repeat(100_000));
            assert!(problem(&line).starts_with("bad JSON at column 10000"));
        }
        assert_eq!(
            parse(b"{\"text\": \"\xff\"}"),
            Err(Fault::Other("byte 11 of the line is not UTF-8".into()))
        );
        assert_eq!(parse(b" [1]"), Err(Fault::Array));
        assert_eq!(problem(r#"{"messages":[]}"#), r#""messages" is empty"#);
        assert_eq!(problem(r#"{"messages":[1]}"#), "message 1: it is not an object");
        assert_eq!(problem(r#"{"messages":[{"content":"a"}]}"#), r#"message 1: it has no "role""#);
        assert!(
            problem(r#"{"messages":[{"role":"user","content":1}]}"#).contains("neither a string nor a list")
        );
        assert!(problem(r#"{"messages":[{"role":"user"}],"tools":3}"#).contains("not a list of objects"));
        assert!(problem(r#"{"conversations":[{"from":"moon","value":"a"}]}"#).contains("moon"));
    }
}

//! The metadata of a GGUF file, asked for by key.

use std::collections::BTreeMap;

use super::value::{List, Value};

/// Values by key. Whoever asks says which type is expected.
#[derive(Debug, Default)]
pub(super) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Takes a value in; false if there is one under the key.
    pub(super) fn insert(&mut self, key: &str, value: Value) -> bool {
        self.0.insert(key.to_owned(), value).is_none()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| format!("{key} is {value}; expected {expected}"))
    }

    /// A whole number from 0 up.
    pub(super) fn whole(&self, key: &str) -> Result<Option<u64>, String> {
        self.read(key, "a whole number from 0 up", Value::whole)
    }

    /// A whole number that must be there.
    pub(super) fn required_whole(&self, key: &str) -> Result<u64, String> {
        self.whole(key)?.ok_or_else(|| format!("{key} is missing; expected a whole number"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.read(key, "a number", Value::number)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.read(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.read(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, String> {
        self.read(key, "a list of texts", |value| match value {
            Value::List(List::Text(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    pub(super) fn f32s(&self, key: &str) -> Result<Option<&[f32]>, String> {
        self.read(key, "a list of f32 numbers", |value| match value {
            Value::List(List::F32(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers of 32 bits, signed or not.
    pub(super) fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, String> {
        self.read(key, "a list of whole numbers of 32 bits", |value| match value {
            Value::List(List::I32(list)) => Some(list.clone()),
            Value::List(List::U32(list)) => list.iter().map(|&value| i32::try_from(value).ok()).collect(),
            _ => None,
        })
    }
}

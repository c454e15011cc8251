//! Reading the small JSON files that lie beside weights.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use super::error::WeightsError;

/// No config or index comes near this; a larger file is not what its name says.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// The bytes of a JSON file.
///
/// # Errors
/// Not there, not a regular file, unreadable, or larger than any config or index is.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let meta = fs::metadata(path).map_err(WeightsError::io("read", path))?;
    if meta.is_dir() {
        return Err(WeightsError::unusable(path, "is a folder where a file was expected"));
    }
    if !meta.is_file() {
        return Err(WeightsError::unusable(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(WeightsError::io("open", path))?;
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(WeightsError::io("read", path))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(WeightsError::unusable(path, format!("is larger than {MAX_JSON_BYTES} bytes")));
    }
    if bytes.is_empty() {
        return Err(WeightsError::unusable(path, "is empty; it was probably not downloaded to the end"));
    }
    Ok(bytes)
}

/// Parses the content of the JSON file at `path`; an error names the line and column.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, WeightsError> {
    serde_json::from_slice(bytes).map_err(|error| WeightsError::Json {
        path: path.to_path_buf(),
        line: error.line(),
        column: error.column(),
        message: strip_position(&error.to_string()),
    })
}

/// serde_json ends its messages with the position, which the error says already.
pub(super) fn strip_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message[..at].to_string(),
        None => message.to_string(),
    }
}

/// A JSON object in its order, in which no key may come twice. Maps keep the last of two without a word.
#[derive(Debug)]
pub(super) struct UniqueMap<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key_seed(PhantomData::<String>)? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{key:?} comes twice")));
            }
            let value = map.next_value_seed(Named { key: &key, value: PhantomData })?;
            entries.push((key, value));
        }
        Ok(UniqueMap(entries))
    }
}

/// Puts the key in front of an error in its value.
struct Named<'a, V> {
    key: &'a str,
    value: PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> DeserializeSeed<'de> for Named<'_, V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V, D::Error> {
        V::deserialize(deserializer)
            .map_err(|error| D::Error::custom(format_args!("{:?}: {error}", self.key)))
    }
}

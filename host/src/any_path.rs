//! Paths in JSON and TOML, which are Unicode where a path need not be: text where it is, else its bytes as numbers.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path that is written so that it is read back as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyPath(pub PathBuf);

impl From<&Path> for AnyPath {
    fn from(path: &Path) -> AnyPath {
        AnyPath(path.into())
    }
}

impl From<AnyPath> for PathBuf {
    fn from(path: AnyPath) -> PathBuf {
        path.0
    }
}

impl Serialize for AnyPath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        path::serialize(&self.0, to)
    }
}

impl<'de> Deserialize<'de> for AnyPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<AnyPath, D::Error> {
        from.deserialize_any(PathVisitor).map(AnyPath)
    }
}

/// For `#[serde(with = "…")]` on a path.
pub mod path {
    use super::*;

    /// Text, or bytes.
    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        #[cfg(unix)]
        if path.to_str().is_none() {
            return std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).serialize(to);
        }
        path.serialize(to)
    }

    /// Either of the two.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        AnyPath::deserialize(from).map(|path| path.0)
    }
}

/// For `#[serde(default, with = "…")]` on a path that may be left out.
pub mod option {
    use super::*;

    /// As [`path::serialize`].
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.clone().map(AnyPath).serialize(to)
    }

    /// As [`path::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        Option::<AnyPath>::deserialize(from).map(|path| path.map(|path| path.0))
    }
}

/// For `#[serde(with = "…")]` on a list of paths.
pub mod list {
    use super::*;

    /// As [`path::serialize`].
    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().cloned().map(AnyPath))
    }

    /// As [`path::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        Ok(Vec::<AnyPath>::deserialize(from)?.into_iter().map(|path| path.0).collect())
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = PathBuf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("path string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PathBuf, E> {
        Ok(PathBuf::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<PathBuf, A::Error> {
        let mut path = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            path.push(byte);
        }
        of_bytes(path).ok_or_else(|| A::Error::custom("a path of bytes belongs to another system"))
    }
}

#[cfg(unix)]
fn of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    Some(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn of_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "path")]
        one: PathBuf,
        #[serde(default, with = "option", skip_serializing_if = "Option::is_none")]
        perhaps: Option<PathBuf>,
        #[serde(with = "list")]
        some: Vec<PathBuf>,
    }

    /// What is written for another process, or for a later day, means the same there; text stays text.
    #[test]
    fn a_path_is_read_back_as_it_was() {
        let odd = PathBuf::from(OsStr::from_bytes(b"/a/b\xff.so"));
        let paths = Paths { one: odd.clone(), perhaps: Some(odd.clone()), some: vec!["/ü".into(), odd] };
        let json = serde_json::to_string(&paths).unwrap();
        assert!(json.contains("[\"/ü\",["), "{json}");
        assert_eq!(serde_json::from_str::<Paths>(&json).unwrap(), paths);
        assert_eq!(toml::from_str::<Paths>(&toml::to_string(&paths).unwrap()).unwrap(), paths);
        let plain = Paths { one: "/a".into(), perhaps: None, some: Vec::new() };
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"one":"/a","some":[]}"#);
        assert_eq!(toml::from_str::<Paths>("one = '/a'\nsome = []").unwrap(), plain);
        assert!(toml::from_str::<Paths>("one = 3\nsome = []").unwrap_err().message().contains("path string"));
    }
}

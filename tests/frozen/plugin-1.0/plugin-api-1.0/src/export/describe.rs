use crate::abi::{HostMemory, HostMemoryBox};
use crate::program::DType;

use super::Error;

/// A JSON object.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// A device that [`Plugin::probe`](super::Plugin::probe) found.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceDescription {
    /// What a person calls it: the chip's or card's name.
    pub name: String,
    /// `cpu`, `gpu`, or another word.
    pub kind: String,
    /// Its memory in bytes; 0 where unknown.
    pub memory_total: u64,
    /// Bytes that could be allocated now; 0 where unknown.
    pub memory_available: u64,
    /// Whether its memory is the processor's.
    pub unified: bool,
    /// The element types that it computes with.
    pub dtypes: Vec<DType>,
    /// Whatever else is worth knowing: driver version, core counts.
    pub details: JsonObject,
}

/// What the host says when it opens a device: a JSON object whose keys a plugin documents. Unknown keys are
/// ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(JsonObject);

impl Options {
    pub(crate) fn parse(text: &str) -> Result<Options, Error> {
        if text.is_empty() {
            return Ok(Options::default());
        }
        serde_json::from_str(text)
            .map(Options)
            .map_err(|error| Error::invalid_argument(format!("the options are no JSON object: {error}")))
    }

    /// The whole object.
    pub fn as_object(&self) -> &JsonObject {
        &self.0
    }

    /// The value of a key, if it is given; an error if it is of another type than asked for.
    pub fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        T::deserialize(value)
            .map(Some)
            .map_err(|error| Error::invalid_argument(format!("option {key} is {value}: {error}")))
    }
}

impl From<JsonObject> for Options {
    fn from(object: JsonObject) -> Options {
        Options(object)
    }
}

/// Memory of the host, lent to a plugin until this is dropped.
pub struct HostBytes(HostMemoryBox);

impl HostBytes {
    /// Takes over what the host lends.
    pub(crate) fn new(memory: HostMemoryBox) -> HostBytes {
        HostBytes(memory)
    }

    /// Lends bytes that this library owns, for tests of a device.
    pub fn from_vec(bytes: Vec<u8>) -> HostBytes {
        let owned = Owned(bytes);
        HostBytes(HostMemoryBox::from_value(owned, abi_stable::sabi_trait::TD_Opaque))
    }

    /// The bytes: the same ones at every call.
    pub fn as_slice(&self) -> &[u8] {
        self.0.bytes().as_slice()
    }
}

impl std::ops::Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostBytes({} bytes)", self.as_slice().len())
    }
}

struct Owned(Vec<u8>);

impl HostMemory for Owned {
    fn bytes(&self) -> abi_stable::std_types::RSlice<'_, u8> {
        self.0.as_slice().into()
    }
}

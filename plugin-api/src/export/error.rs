use abi_stable::std_types::RResult;

use crate::abi::{AbiError, ErrorKind};

/// Why a call failed: a kind that the host acts on, and a sentence for a person.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    state_untouched: bool,
}

macro_rules! constructors {
    ($($name:ident $kind:ident $doc:literal)*) => {
        $(#[doc = $doc] pub fn $name(message: impl Into<String>) -> Error {
            Error::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of that kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), state_untouched: false }
    }

    constructors! {
        internal Internal "A failure that is none of the others."
        out_of_memory OutOfMemory "The device has not enough memory free; say how much was asked for."
        unsupported Unsupported "The plugin cannot do this."
        device_lost DeviceLost "The device is gone."
        invalid_program InvalidProgram "The program breaks a rule."
        invalid_argument InvalidArgument "An argument of the call is wrong."
        unavailable Unavailable "There is no such device here, or no driver; say which."
    }

    /// Declares that every buffer that the call was to write still holds what it held before, so that none is
    /// poisoned.
    pub fn untouched(mut self) -> Error {
        self.state_untouched = true;
        self
    }

    /// Bytes of a buffer were named that it does not have; nothing was touched.
    pub fn outside(offset: usize, length: usize) -> Error {
        let end = offset.saturating_add(length);
        Error::invalid_argument(format!("bytes {offset} to {end} are not in the buffer")).untouched()
    }

    /// A device was asked for that is not there; `count` are, counted from 0.
    pub fn no_such_device(index: u32, count: usize) -> Error {
        Error::invalid_argument(format!("there is no device {index}; there are {count}, counted from 0"))
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it was declared [`untouched`](Error::untouched).
    pub fn state_untouched(&self) -> bool {
        self.state_untouched
    }
}

impl From<crate::program::ProgramError> for Error {
    fn from(error: crate::program::ProgramError) -> Error {
        Error::invalid_program(error.to_string()).untouched()
    }
}

impl From<Error> for AbiError {
    fn from(error: Error) -> AbiError {
        AbiError {
            kind: error.kind.code(),
            message: error.message.into(),
            state_untouched: error.state_untouched,
        }
    }
}

impl From<AbiError> for Error {
    fn from(error: AbiError) -> Error {
        Error {
            kind: ErrorKind::from_code(error.kind),
            message: error.message.into(),
            state_untouched: error.state_untouched,
        }
    }
}

pub(super) fn to_abi<T, U: From<T>>(result: Result<T, Error>) -> RResult<U, AbiError> {
    match result {
        Ok(value) => RResult::ROk(value.into()),
        Err(error) => RResult::RErr(error.into()),
    }
}

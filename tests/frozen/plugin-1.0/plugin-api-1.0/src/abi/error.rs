use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// What went wrong, in a form that a program can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Any failure that is none of the others; a panic, too.
    Internal,
    /// The device has not enough memory free.
    OutOfMemory,
    /// The plugin cannot do this: an element type, an op, a size.
    Unsupported,
    /// The device is gone; nothing on it can be used any more.
    DeviceLost,
    /// The program breaks a rule of the language, or is of a later version of it.
    InvalidProgram,
    /// An argument of the call is wrong: a stale handle, a range outside a buffer, a type that does not fit.
    InvalidArgument,
    /// There is no such device here, or no driver for it.
    Unavailable,
    /// A kind that this version does not know.
    Unknown(u32),
}

impl ErrorKind {
    /// The number that crosses the boundary. Numbers are never given a new meaning.
    pub const fn code(self) -> u32 {
        match self {
            ErrorKind::Internal => 1,
            ErrorKind::OutOfMemory => 2,
            ErrorKind::Unsupported => 3,
            ErrorKind::DeviceLost => 4,
            ErrorKind::InvalidProgram => 5,
            ErrorKind::InvalidArgument => 6,
            ErrorKind::Unavailable => 7,
            ErrorKind::Unknown(code) => code,
        }
    }

    /// The inverse of [`ErrorKind::code`].
    pub const fn from_code(code: u32) -> ErrorKind {
        match code {
            1 => ErrorKind::Internal,
            2 => ErrorKind::OutOfMemory,
            3 => ErrorKind::Unsupported,
            4 => ErrorKind::DeviceLost,
            5 => ErrorKind::InvalidProgram,
            6 => ErrorKind::InvalidArgument,
            7 => ErrorKind::Unavailable,
            code => ErrorKind::Unknown(code),
        }
    }

    /// What a person calls it.
    pub fn words(self) -> &'static str {
        match self {
            ErrorKind::Internal => "internal error",
            ErrorKind::OutOfMemory => "out of memory",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::DeviceLost => "device lost",
            ErrorKind::InvalidProgram => "invalid program",
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Unknown(_) => "error of an unknown kind",
        }
    }
}

/// A failed call.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, StableAbi)]
pub struct AbiError {
    /// An [`ErrorKind::code`].
    pub kind: u32,
    /// A sentence for a person.
    pub message: RString,
    /// Whether every buffer that the call was to write still holds what it held before.
    pub state_untouched: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are part of the frozen interface.
    #[test]
    fn codes_of_error_kinds_are_fixed_and_unknown_ones_survive() {
        let fixed = [
            (1, ErrorKind::Internal),
            (2, ErrorKind::OutOfMemory),
            (3, ErrorKind::Unsupported),
            (4, ErrorKind::DeviceLost),
            (5, ErrorKind::InvalidProgram),
            (6, ErrorKind::InvalidArgument),
            (7, ErrorKind::Unavailable),
            (900, ErrorKind::Unknown(900)),
        ];
        for (code, kind) in fixed {
            assert_eq!(ErrorKind::from_code(code), kind);
            assert_eq!(kind.code(), code);
        }
    }
}

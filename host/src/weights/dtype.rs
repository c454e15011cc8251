//! Element types: those that files may hold, and those this program computes with.

use std::fmt;

use super::blocks::BlockFormat;

/// An element type that weights are held in: loaded, converted to, and saved.
///
/// Ordered by alignment, as the safetensors format orders tensors in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightDType {
    F16,
    BF16,
    F32,
}

impl WeightDType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name that `config.json` uses under `torch_dtype` and `dtype`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
        }
    }
}

impl From<WeightDType> for StoredDType {
    fn from(dtype: WeightDType) -> Self {
        match dtype {
            WeightDType::F16 => Self::F16,
            WeightDType::BF16 => Self::BF16,
            WeightDType::F32 => Self::F32,
        }
    }
}

impl fmt::Display for WeightDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        StoredDType::from(*self).fmt(f)
    }
}

macro_rules! stored_dtypes {
    ($($variant:ident $name:literal $bits:literal),* $(,)?) => {
        /// An element type as a safetensors header names it. All that the format knows are listed, so that a
        /// file that holds some of them beside its weights (masks, position ids) can still be opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StoredDType { $($variant),* }

        impl StoredDType {
            /// The element type that a header calls `name`.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The name in a header.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Bits of one element.
            pub fn bits(self) -> usize {
                match self { $(Self::$variant => $bits),* }
            }
        }
    };
}

stored_dtypes! {
    Bool "BOOL" 8, F4 "F4" 4, F6E2M3 "F6_E2M3" 6, F6E3M2 "F6_E3M2" 6, U8 "U8" 8, I8 "I8" 8,
    F8E5M2 "F8_E5M2" 8, F8E4M3 "F8_E4M3" 8, F8E8M0 "F8_E8M0" 8, F8E4M3Fnuz "F8_E4M3FNUZ" 8,
    F8E5M2Fnuz "F8_E5M2FNUZ" 8, I16 "I16" 16, U16 "U16" 16, F16 "F16" 16, BF16 "BF16" 16, I32 "I32" 32,
    U32 "U32" 32, F32 "F32" 32, C64 "C64" 64, F64 "F64" 64, I64 "I64" 64, U64 "U64" 64,
}

impl StoredDType {
    /// The same type as one that weights are held in; `None` for all but F32, F16 and BF16.
    pub fn as_weight(self) -> Option<WeightDType> {
        match self {
            Self::F32 => Some(WeightDType::F32),
            Self::F16 => Some(WeightDType::F16),
            Self::BF16 => Some(WeightDType::BF16),
            _ => None,
        }
    }

    /// Whether it can be read as weights: F32, F16, BF16 and F64.
    pub fn is_convertible(self) -> bool {
        self == Self::F64 || self.as_weight().is_some()
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the elements of a tensor are written in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One after the other.
    Plain(StoredDType),
    /// In blocks that share a scale.
    Blocks(BlockFormat),
}

impl Encoding {
    /// The same as a type that weights are held in; `None` for blocks and all but F32, F16 and BF16.
    pub fn as_weight(self) -> Option<WeightDType> {
        match self {
            Self::Plain(dtype) => dtype.as_weight(),
            Self::Blocks(_) => None,
        }
    }

    /// Whether [`convert`](super::convert::convert) can read it: all blocks, F32, F16, BF16 and F64.
    pub fn is_convertible(self) -> bool {
        match self {
            Self::Plain(dtype) => dtype.is_convertible(),
            Self::Blocks(_) => true,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Blocks(format) => format.fmt(f),
        }
    }
}

//! The kinds of tensors that ggml knows: <https://github.com/ggml-org/ggml/blob/master/include/ggml.h>.

use crate::weights::blocks::BlockFormat;
use crate::weights::dtype::{Encoding, StoredDType};

/// A kind of tensor.
#[derive(Debug, PartialEq)]
pub(super) struct Kind {
    /// Its number in files.
    id: u32,
    /// The name that ggml gives it.
    pub name: &'static str,
    /// Elements of a block, and bytes; none for a kind that ggml has removed.
    block: Option<(usize, usize)>,
    /// How it is read, if it is.
    pub encoding: Option<Encoding>,
}

/// Those that are read, as errors say them.
pub(super) const READ: &str = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1";

const fn plain(id: u32, name: &'static str, dtype: StoredDType, bytes: usize) -> Kind {
    Kind { id, name, block: Some((1, bytes)), encoding: Some(Encoding::Plain(dtype)) }
}

const fn blocks(id: u32, name: &'static str, format: BlockFormat, bytes: usize) -> Kind {
    Kind { id, name, block: Some((32, bytes)), encoding: Some(Encoding::Blocks(format)) }
}

const fn other(id: u32, name: &'static str, elements: usize, bytes: usize) -> Kind {
    Kind { id, name, block: Some((elements, bytes)), encoding: None }
}

const fn removed(id: u32, name: &'static str) -> Kind {
    Kind { id, name, block: None, encoding: None }
}

const KINDS: &[Kind] = &[
    plain(0, "F32", StoredDType::F32, 4),
    plain(1, "F16", StoredDType::F16, 2),
    blocks(2, "Q4_0", BlockFormat::Q4_0, 18),
    blocks(3, "Q4_1", BlockFormat::Q4_1, 20),
    removed(4, "Q4_2"),
    removed(5, "Q4_3"),
    other(6, "Q5_0", 32, 22),
    other(7, "Q5_1", 32, 24),
    blocks(8, "Q8_0", BlockFormat::Q8_0, 34),
    other(9, "Q8_1", 32, 36),
    other(10, "Q2_K", 256, 84),
    other(11, "Q3_K", 256, 110),
    other(12, "Q4_K", 256, 144),
    other(13, "Q5_K", 256, 176),
    other(14, "Q6_K", 256, 210),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    plain(30, "BF16", StoredDType::BF16, 2),
    removed(31, "Q4_0_4_4"),
    removed(32, "Q4_0_4_8"),
    removed(33, "Q4_0_8_8"),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    removed(36, "IQ4_NL_4_4"),
    removed(37, "IQ4_NL_4_8"),
    removed(38, "IQ4_NL_8_8"),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
];

/// The kind of a number.
///
/// # Errors
/// A sentence for a number that is not known, and for a kind that ggml has removed.
pub(super) fn kind(id: u32) -> Result<&'static Kind, String> {
    match KINDS.iter().find(|kind| kind.id == id) {
        Some(kind) if kind.block.is_none() => Err(format!(
            "is of kind {}, which GGUF has no more; make the file again with a newer llama.cpp",
            kind.name
        )),
        Some(kind) => Ok(kind),
        None => Err(format!("is of kind {id}, which is not known here; {READ} are read")),
    }
}

impl Kind {
    /// The bytes of rows of `width` elements.
    ///
    /// # Errors
    /// A sentence for rows that do not fill whole blocks, and for sizes beyond any file.
    pub(super) fn bytes(&self, width: usize, rows: usize) -> Result<usize, String> {
        let (elements, bytes) = self.block.unwrap_or((1, 1));
        if !width.is_multiple_of(elements) {
            return Err(format!(
                "is of kind {}, whose blocks have {elements} elements, and its rows have {width}, which is no \
                 multiple",
                self.name
            ));
        }
        let size = (width / elements).checked_mul(bytes).and_then(|row| row.checked_mul(rows));
        size.ok_or_else(|| "is larger than any file".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read has the size that its reader takes; the table is in order, and no number comes twice.
    #[test]
    fn the_table_agrees_with_the_readers() {
        assert!(KINDS.is_sorted_by_key(|kind| kind.id));
        for pair in KINDS.windows(2) {
            assert_ne!(pair[0].id, pair[1].id);
        }
        for kind in KINDS.iter() {
            match kind.encoding {
                Some(Encoding::Plain(dtype)) => assert_eq!(kind.block, Some((1, dtype.bits() / 8))),
                Some(Encoding::Blocks(format)) => {
                    assert_eq!((kind.block, kind.name), (Some((32, format.bytes())), format.name()));
                }
                None => assert!(!READ.split(", ").any(|name| name == kind.name)),
            }
        }
        let read = KINDS.iter().filter(|kind| kind.encoding.is_some());
        assert_eq!(read.clone().count(), 6);
        assert!(read.clone().all(|kind| READ.contains(kind.name)));
    }
}

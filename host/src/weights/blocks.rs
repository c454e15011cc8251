//! Weights in blocks: 32 small integers that share a scale, as ggml defines them, back to f32.

use std::fmt;

use half::f16;

/// Elements of a block, in every format.
pub(super) const BLOCK: usize = 32;

/// How a block of 32 elements is written. All integers of a block share its scale `d`, an f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// `d`, then 16 bytes of two 4-bit integers each: `d (q - 8)`.
    Q4_0,
    /// `d` and a minimum `m`, then 16 bytes of two 4-bit integers each: `d q + m`.
    Q4_1,
    /// `d`, then 32 signed bytes: `d q`.
    Q8_0,
}

impl BlockFormat {
    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
        }
    }

    /// The elements of the whole blocks in `bytes`. Only `d q + m` can be inexact: it is rounded once to f32.
    pub(super) fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.chunks_exact(self.bytes()).zip(out.as_chunks_mut::<BLOCK>().0) {
            let d = half_at(block, 0);
            match self {
                Self::Q4_0 => nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0)),
                Self::Q4_1 => {
                    let m = half_at(block, 2);
                    nibbles(&block[4..], out, |q| d * f32::from(q) + m);
                }
                Self::Q8_0 => {
                    for (value, &q) in out.iter_mut().zip(&block[2..]) {
                        *value = d * f32::from(q as i8);
                    }
                }
            }
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low halves of all bytes are the first 16 elements, the high halves the others.
fn nibbles(bytes: &[u8], out: &mut [f32; BLOCK], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(format: BlockFormat, scales: &[f32], integers: &[u8]) -> [f32; BLOCK] {
        let mut bytes: Vec<u8> =
            scales.iter().flat_map(|&scale| f16::from_f32(scale).to_le_bytes()).collect();
        bytes.extend(integers);
        assert_eq!(bytes.len(), format.bytes());
        let mut out = [f32::NAN; BLOCK];
        format.dequantize(&bytes, &mut out);
        out
    }

    /// Where each integer lies in a block and what it stands for, written out from ggml's definition.
    #[test]
    fn blocks_are_read_as_ggml_defines_them() {
        let packed: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
        let q4_0 = block(BlockFormat::Q4_0, &[0.5], &packed);
        let q4_1 = block(BlockFormat::Q4_1, &[0.5, -3.0], &packed);
        for i in 0..16 {
            let (low, high) = (i as f32, 15.0 - i as f32);
            assert_eq!((q4_0[i], q4_0[16 + i]), (0.5 * (low - 8.0), 0.5 * (high - 8.0)));
            assert_eq!((q4_1[i], q4_1[16 + i]), (0.5 * low - 3.0, 0.5 * high - 3.0));
        }
        let bytes: Vec<u8> = (0..32u8).map(|i| i.wrapping_mul(8)).collect();
        let q8_0 = block(BlockFormat::Q8_0, &[0.25], &bytes);
        assert_eq!((q8_0[1], q8_0[15], q8_0[16], q8_0[31]), (2.0, 30.0, -32.0, -2.0));
    }

    /// A scale that is no number stays visible, and a tiny one is not lost.
    #[test]
    fn scales_at_the_edges() {
        let one = [1u8; BLOCK];
        assert!(block(BlockFormat::Q8_0, &[f32::NAN], &one).iter().all(|value| value.is_nan()));
        assert_eq!(block(BlockFormat::Q8_0, &[2f32.powi(-24)], &one), [2f32.powi(-24); BLOCK]);
    }
}

//! What the operands and attributes of `attention` and `attention_grad` mean to a kernel.

use std::ops::Range;

use super::{Attrs, DType, TensorType};

/// Sizes of an attention and what limits which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Rows of the batch, B.
    pub batch: usize,
    /// Queries of a row, T.
    pub queries: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Channels of a head of q and k, D.
    pub channels: usize,
    /// Keys of a row, S.
    pub keys: usize,
    /// Key heads, G, each of which H / G query heads read.
    pub groups: usize,
    /// Channels of a head of v, E.
    pub value_channels: usize,
    /// Whether a query sees no key behind its own place.
    pub causal: bool,
    /// How many keys up to its own a query sees at most; 0 if that is not limited.
    pub window: usize,
    /// Whether a query sees only keys of its own segment.
    pub segments: bool,
    /// Factor of the scores.
    pub scale: f64,
}

impl AttentionShape {
    /// Of the shapes q [B, T, H, D], k [B, S, G, D] and v [B, S, G, E] and the op's attributes.
    ///
    /// # Panics
    /// A shape has not four dimensions. Those of a [`Program`](super::Program) have.
    pub fn new(q: &[usize], k: &[usize], v: &[usize], attrs: &Attrs) -> AttentionShape {
        AttentionShape {
            batch: q[0],
            queries: q[1],
            heads: q[2],
            channels: q[3],
            keys: k[1],
            groups: k[2],
            value_channels: v[3],
            causal: attrs.get_bool("causal"),
            window: attrs.get_int("window"),
            segments: attrs.get_bool("segments"),
            scale: attrs.get_float("scale"),
        }
    }

    /// The type of `out`, [B, T, H, E], where q has this dtype.
    pub fn out(&self, dtype: DType) -> TensorType {
        TensorType::new(dtype, &[self.batch, self.queries, self.heads, self.value_channels])
    }

    /// The type of `lse`, f32 [B, H, T].
    pub fn lse(&self) -> TensorType {
        TensorType::new(DType::F32, &[self.batch, self.heads, self.queries])
    }

    /// Query heads that read one key head, H / G: those from `group * heads_per_group()` on.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.groups
    }

    /// The number of the operand `dout` of `attention_grad`. With the attribute `lse`, `out` and `lse` follow it.
    pub fn dout(&self) -> usize {
        if self.segments { 6 } else { 5 }
    }

    /// The place of a query among the keys: its number in the row from `start` on. Places wrap, as u32 does.
    pub fn place(start: u32, query: usize) -> usize {
        start.wrapping_add(query as u32) as usize
    }

    /// The keys that the query at [`place`](Self::place) may see where `valid` of them are valid. With segments it sees
    /// those of them that are in the segment of the key at its own place, or of the last key.
    pub fn seen(&self, place: usize, valid: u32) -> Range<usize> {
        let valid = (valid as usize).min(self.keys);
        let end = if self.causal { valid.min(place + 1) } else { valid };
        let first = if self.window == 0 { 0 } else { (place + 1).saturating_sub(self.window) };
        first.min(end)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Order, window and validity together; nothing seen is an empty range, whichever of them it is due to.
    #[test]
    fn what_a_query_sees() {
        let shape = |causal: bool, window: usize| {
            let attrs = Attrs::none().float("scale", 1.0).bool("causal", causal).int("window", window);
            AttentionShape::new(&[1, 4, 2, 8], &[1, 6, 1, 8], &[1, 6, 1, 8], &attrs.bool("segments", false))
        };
        assert_eq!(shape(true, 0).seen(2, 6), 0..3);
        assert_eq!(shape(false, 0).seen(2, 5), 0..5);
        assert_eq!(shape(true, 2).seen(4, 6), 3..5);
        assert_eq!(shape(true, 2).seen(4, 4), 3..4);
        assert_eq!(shape(true, 2).seen(9, 6).len(), 0);
        assert_eq!(shape(true, 0).seen(0, 0).len(), 0);
        assert_eq!(shape(true, 0).seen(9, 60), 0..6);
    }
}

//! Examples laid out as the rectangles that programs take.

use super::Example;

/// The number of lengths that batches may have.
const BUCKETS: usize = 8;

/// One micro-batch: `rows` examples padded on the right to `len` inputs. Two-dimensional
/// fields are row-major, `[rows, len]`.
///
/// Padding has token and target 0 and weight 0. A row without an example (a short last batch)
/// is padding throughout; it and an example without inputs still have `valid` 1, so that no
/// attention is ever over nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub rows: usize,
    /// One of the [buckets](Buckets).
    pub len: usize,
    /// `[rows, len]`: inputs, an example's tokens without the last.
    pub tokens: Vec<u32>,
    /// `[rows, len]`: what follows each input, an example's tokens without the first.
    pub targets: Vec<u32>,
    /// `[rows, len]`: 1.0 where the target counts in the loss, else 0.0.
    pub weights: Vec<f32>,
    /// `[rows]`: the number of real input positions, at least 1.
    pub valid: Vec<u32>,
    /// `[rows, len]`: 0, 1, 2, ... in every row, padding included.
    pub positions: Vec<u32>,
    /// `[rows]`: the row's index within the whole batch, the same however the batch is split, so
    /// that random numbers keyed by it (dropout) do not depend on the split.
    pub example: Vec<u32>,
    /// The number of targets that count: the sum of `weights`.
    pub target_tokens: u64,
}

impl Batch {
    /// Lays out `examples`, at most `rows`; `first` is the first one's index in the whole batch.
    pub(super) fn new(examples: &[Example], rows: usize, first: usize, buckets: &Buckets) -> Batch {
        let longest = examples.iter().map(Example::inputs).max().unwrap_or(0);
        let len = buckets.fit(longest);
        let mut batch = Batch {
            rows,
            len,
            tokens: vec![0; rows * len],
            targets: vec![0; rows * len],
            weights: vec![0.0; rows * len],
            valid: vec![1; rows],
            positions: (0..rows).flat_map(|_| 0..len as u32).collect(),
            example: (first as u32..).take(rows).collect(),
            target_tokens: 0,
        };
        for (row, example) in examples.iter().enumerate() {
            let inputs = example.inputs();
            if inputs > 0 {
                let at = row * len..row * len + inputs;
                batch.tokens[at.clone()].copy_from_slice(&example.tokens[..inputs]);
                batch.targets[at.clone()].copy_from_slice(&example.tokens[1..]);
                batch.weights[at].copy_from_slice(&example.weights);
                batch.valid[row] = inputs as u32;
                batch.target_tokens += example.targets();
            }
        }
        batch
    }
}

/// The lengths that batches may have: eighths of the longest, rounded up, at most eight. Every
/// length is a program to compile, and no batch is padded by more than an eighth of the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets(Vec<usize>);

impl Buckets {
    /// `seq_len` is the largest number of inputs, at least 1.
    pub fn new(seq_len: usize) -> Buckets {
        let mut lengths: Vec<usize> = (1..=BUCKETS)
            .map(|k| (seq_len as u128 * k as u128).div_ceil(BUCKETS as u128) as usize)
            .map(|length| length.max(1))
            .collect();
        lengths.dedup();
        Buckets(lengths)
    }

    /// The lengths, ascending.
    pub fn lengths(&self) -> &[usize] {
        &self.0
    }

    /// The longest length.
    pub(super) fn longest(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// The smallest length that holds `inputs`, which is at most the largest.
    fn fit(&self, inputs: usize) -> usize {
        self.0[self.0.partition_point(|&length| length < inputs).min(self.0.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_eighths_without_doubles() {
        assert_eq!(Buckets::new(1024).lengths(), [128, 256, 384, 512, 640, 768, 896, 1024]);
        assert_eq!(Buckets::new(10).lengths(), [2, 3, 4, 5, 7, 8, 9, 10]);
        assert_eq!(Buckets::new(3).lengths(), [1, 2, 3]);
        assert_eq!(Buckets::new(1).lengths(), [1]);
        let buckets = Buckets::new(16);
        assert_eq!([0, 1, 2, 3, 15, 16].map(|n| buckets.fit(n)), [2, 2, 2, 4, 16, 16]);
    }

    /// The layout that every program relies on, number by number.
    #[test]
    fn a_batch_is_shifted_padded_on_the_right_and_filled_with_weightless_rows() {
        let pair = Example::cut(vec![5, 6, 7, 8], 2, 10);
        let text = Example::cut(vec![9, 3], 1, 10);
        let batch = Batch::new(&[pair, text], 3, 4, &Buckets::new(4));
        assert_eq!((batch.rows, batch.len), (3, 3));
        assert_eq!(batch.tokens, [5, 6, 7, 9, 0, 0, 0, 0, 0]);
        assert_eq!(batch.targets, [6, 7, 8, 3, 0, 0, 0, 0, 0]);
        assert_eq!(batch.weights, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(batch.valid, [3, 1, 1]);
        assert_eq!(batch.example, [4, 5, 6]);
        assert_eq!(batch.target_tokens, 3);
    }

    #[test]
    fn examples_without_inputs_are_rows_without_weight() {
        let examples = [Example::cut(vec![], 1, 10), Example::cut(vec![7], 1, 10)];
        let batch = Batch::new(&examples, 2, 0, &Buckets::new(16));
        assert_eq!((batch.len, batch.target_tokens, &batch.valid[..]), (2, 0, &[1, 1][..]));
        assert_eq!(batch.weights, [0.0; 4]);
    }
}

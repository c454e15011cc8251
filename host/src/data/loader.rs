//! Steps to batches.

use super::{Batch, Buckets, DataError, Dataset, Order};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Examples a step.
    pub batch: usize,
    /// Rows of a micro-batch; one larger than `batch` counts as `batch`.
    pub micro_batch: usize,
    pub seed: u64,
    pub shuffle: bool,
    /// After so many times through the file there are no more steps; `None` goes on for ever.
    pub epochs: Option<u64>,
}

/// Gives each step its batch. It holds no position: step `s` (from 0) always has the examples
/// drawn `s * batch`-th to `(s + 1) * batch`-th, so a resumed run needs only its step number.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    order: Order,
    buckets: Buckets,
}

impl Loader {
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Result<Loader, DataError> {
        let sizes = [("the batch size", options.batch), ("the micro-batch size", options.micro_batch)];
        for (name, value) in sizes.map(|(name, size)| (name, size as u64)) {
            positive(name, value)?;
        }
        positive("the number of epochs", options.epochs.unwrap_or(1))?;
        let order = Order::new(dataset.len(), options.seed, options.shuffle);
        let buckets = Buckets::new(dataset.seq_len());
        Ok(Loader { dataset, options, order, buckets })
    }

    /// The same steps with another split into micro-batches (after running out of memory).
    pub fn with_micro_batch(&self, micro_batch: usize) -> Result<Loader, DataError> {
        Loader::new(self.dataset.clone(), LoaderOptions { micro_batch, ..self.options.clone() })
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// Rows of every micro-batch.
    pub fn rows(&self) -> usize {
        self.options.micro_batch.min(self.options.batch)
    }

    /// How many steps there are, if there is an end. The last may be short.
    pub fn steps(&self) -> Option<u64> {
        Some(self.end()?.div_ceil(self.options.batch as u64))
    }

    /// How many examples are drawn in all, if there is an end.
    fn end(&self) -> Option<u64> {
        Some(self.options.epochs?.saturating_mul(self.dataset.len()))
    }

    /// The micro-batches of step `step` (from 0), in order; none once the epochs are over.
    ///
    /// All have [`rows`](Self::rows) rows, each the length its longest example needs. A batch
    /// may hold no target at all (`target_tokens` 0 throughout); it has no loss to divide.
    pub fn step(&self, step: u64) -> Result<Vec<Batch>, DataError> {
        let size = self.options.batch as u64;
        let end = self.end().unwrap_or(u64::MAX);
        let first = step.saturating_mul(size).min(end);
        let drawn = first..first.saturating_add(size).min(end);
        let examples = drawn
            .map(|k| self.dataset.example(self.order.index(k)))
            .collect::<Result<Vec<_>, DataError>>()?;
        let rows = self.rows();
        let micro_batches = examples.chunks(rows).enumerate();
        Ok(micro_batches.map(|(i, part)| Batch::new(part, rows, i * rows, &self.buckets)).collect())
    }
}

/// Examples that are looked at before [`Loader::lengths`] is content with having seen the longest length.
const LOOKED_AT: u64 = 64;
/// Examples after which it takes every length to be possible.
const GIVEN_UP: u64 = 1 << 16;

impl Loader {
    /// The lengths that the batches of the first `steps` steps may have, ascending: those that they have where
    /// that can be told by looking at few examples, or at each example once; else every length up to the longest.
    pub fn lengths(&self, steps: u64) -> Result<Vec<usize>, DataError> {
        let examples = self.dataset.len();
        let batches = (0..steps).map(|step| self.step(step)).take_while(|batches| {
            // Past the last epoch there are no more.
            !matches!(batches, Ok(batches) if batches.is_empty())
        });
        seen_lengths(&self.buckets, examples, batches)
    }
}

/// The lengths that batches have, which together draw from `examples` different ones.
fn seen_lengths(
    buckets: &Buckets,
    examples: u64,
    batches: impl Iterator<Item = Result<Vec<Batch>, DataError>>,
) -> Result<Vec<usize>, DataError> {
    let (longest, mut drawn, mut seen) = (buckets.longest(), 0, BTreeSet::new());
    let up_to = |length: usize| buckets.lengths().iter().copied().filter(|&other| other <= length).collect();
    for batches in batches {
        let batches = batches?;
        seen.extend(batches.iter().filter(|batch| batch.target_tokens > 0).map(|batch| batch.len));
        drawn += batches.iter().map(|batch| batch.rows as u64).sum::<u64>();
        if drawn > LOOKED_AT && seen.contains(&longest) || drawn > GIVEN_UP {
            return Ok(up_to(longest));
        }
        // Each epoch draws every example, so by now no longer one can come.
        if drawn > LOOKED_AT && drawn / 2 >= examples {
            return Ok(up_to(seen.last().copied().unwrap_or(longest)));
        }
    }
    // No batch has a target: none is run, but something must be planned for.
    if seen.is_empty() {
        seen.extend(buckets.lengths().first());
    }
    Ok(seen.into_iter().collect())
}

/// Once through a data file in its order, `rows` examples a batch, the last filled with rows of
/// weight zero. After an error it ends.
#[derive(Debug)]
pub struct EvalBatches<'a> {
    dataset: &'a Dataset,
    rows: usize,
    buckets: Buckets,
    next: u64,
}

impl<'a> EvalBatches<'a> {
    pub fn new(dataset: &'a Dataset, rows: usize) -> Result<EvalBatches<'a>, DataError> {
        positive("the batch size", rows as u64)?;
        Ok(EvalBatches { dataset, rows, buckets: Buckets::new(dataset.seq_len()), next: 0 })
    }

    /// The lengths that the batches may have; as [`Loader::lengths`].
    pub fn lengths(dataset: &'a Dataset, rows: usize) -> Result<Vec<usize>, DataError> {
        let batches = EvalBatches::new(dataset, rows)?;
        let buckets = batches.buckets.clone();
        seen_lengths(&buckets, dataset.len(), batches.map(|batch| Ok(vec![batch?])))
    }

    /// How many batches there are in all.
    pub fn batches(&self) -> u64 {
        self.dataset.len().div_ceil(self.rows as u64)
    }
}

impl Iterator for EvalBatches<'_> {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = self.dataset.len();
        if self.next >= len {
            return None;
        }
        let range = self.next..self.next.saturating_add(self.rows as u64).min(len);
        self.next = range.end;
        let examples: Result<Vec<_>, _> = range.map(|index| self.dataset.example(index)).collect();
        if examples.is_err() {
            self.next = len;
        }
        Some(examples.map(|examples| Batch::new(&examples, self.rows, 0, &self.buckets)))
    }
}

fn positive(name: &'static str, value: u64) -> Result<(), DataError> {
    if value == 0 { Err(DataError::NotPositive { name, value }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;

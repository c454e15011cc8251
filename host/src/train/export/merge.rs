//! What an adapter adds to a weight: scale times B A, in f64.

use rayon::prelude::*;

use crate::models::LinearSpec;
use crate::weights::WeightDType;

use super::super::error::TrainError;
use super::super::source::AdapterSource;
use super::floats;

/// scale B A in the layout of the weight, as the product of two narrow matrices.
pub struct Product {
    /// [rows of the weight, rank], with the scale in it.
    left: Vec<f64>,
    /// [rank, columns of the weight].
    right: Vec<f64>,
    rank: usize,
    columns: usize,
}

impl Product {
    /// The product for a layer; `None` if it has no adapter.
    ///
    /// # Errors
    /// The adapter's files cannot be read.
    pub fn new(adapter: &AdapterSource, linear: &LinearSpec) -> Result<Option<Product>, TrainError> {
        let Some(module) = adapter.lora.module(&linear.path) else { return Ok(None) };
        let [a, b] = [module.a_name(), module.b_name()].map(|name| read(adapter, &name));
        let (a, b) = (a?, b?);
        // A is [rank, inputs] and B [outputs, rank]; a weight of Conv1D lies the other way round.
        let (mut left, right, columns) = match linear.fan_in_fan_out {
            false => (b, a, module.inputs),
            true => (
                transposed(&a, module.rank, module.inputs),
                transposed(&b, module.outputs, module.rank),
                module.outputs,
            ),
        };
        left.iter_mut().for_each(|value| *value *= module.scale);
        Ok(Some(Product { left, right, rank: module.rank, columns }))
    }

    /// Adds the rows from `first` on to `values`, which are whole rows.
    pub fn add_to(&self, first: usize, values: &mut [f64]) {
        values.par_chunks_mut(self.columns).enumerate().for_each(|(row, values)| {
            let left = &self.left[(first + row) * self.rank..][..self.rank];
            for (factor, right) in left.iter().zip(self.right.chunks(self.columns)) {
                for (value, right) in values.iter_mut().zip(right) {
                    *value += factor * right;
                }
            }
        });
    }

    /// The product with a vector, and with the magnitudes of everything: what its rounding errors are bounded by.
    pub fn times(&self, x: &[f64]) -> Vec<(f64, f64)> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
        let inner: Vec<f64> = self.right.chunks(self.columns).map(|row| dot(row, x)).collect();
        let sizes: Vec<f64> = self.right.chunks(self.columns).map(|row| size(row, x)).collect();
        self.left.chunks(self.rank).map(|row| (dot(row, &inner), size(row, &sizes))).collect()
    }
}

fn read(adapter: &AdapterSource, name: &str) -> Result<Vec<f64>, TrainError> {
    let elements = adapter.elements(name);
    let elements =
        elements.ok_or_else(|| TrainError::Internal(format!("the adapter has no tensor {name}")))?;
    let mut bytes = Vec::new();
    elements.range(0..elements.count(), WeightDType::F32, &mut bytes)?;
    let values: Vec<f64> = floats(&bytes).collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(TrainError::Settings(format!(
            "the adapter's {name} has values that are no finite numbers; it cannot be merged"
        ))),
    }
}

fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

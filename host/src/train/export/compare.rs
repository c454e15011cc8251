//! A written tensor against base and adapter.
//!
//! With a random x, W' x has to be W x + scale B (A x), computed the way the adapter computes it, as near as
//! rounding each element of W' to its type once allows. Tensors without an adapter are compared by element.

use crate::models::{Init, fill};
use crate::weights::WeightDType;

use super::super::error::TrainError;
use super::super::source::Elements;
use super::{Tensor, floats};

/// Sums of squares over the rows of one tensor.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Of W' x - (W x + scale B A x).
    error: f64,
    /// Of W x + scale B A x.
    output: f64,
    /// Of scale B A x.
    adapter: f64,
}

impl Comparison {
    /// Compares.
    ///
    /// # Errors
    /// The first row that differs by more than rounding, or holds what is no finite number.
    pub fn of(tensor: &Tensor, written: &Elements, dtype: WeightDType) -> Result<Comparison, TrainError> {
        let mut sums = Comparison::default();
        let x = random(&tensor.name, if tensor.product.is_some() { tensor.columns() } else { 0 });
        let added = tensor.product.as_ref().map(|product| product.times(&x));
        let (mut base_bytes, mut bytes) = (Vec::new(), Vec::new());
        for range in tensor.ranges() {
            tensor.elements.range(range.clone(), WeightDType::F32, &mut base_bytes)?;
            written.range(range.clone(), WeightDType::F32, &mut bytes)?;
            let (base, found): (Vec<f64>, Vec<f64>) =
                (floats(&base_bytes).collect(), floats(&bytes).collect());
            if let Some(at) = found.iter().position(|value| !value.is_finite()) {
                return Err(not_finite(tensor, base[at], range.start + at, dtype));
            }
            match &added {
                None => {
                    let off = base.iter().zip(&found).position(|(base, found)| !near(*base, *found, dtype));
                    if let Some(at) = off {
                        return Err(differs(tensor, range.start + at, base[at], found[at]));
                    }
                }
                Some(added) => {
                    let first = range.start / tensor.columns();
                    let rows = base.chunks(tensor.columns()).zip(found.chunks(tensor.columns()));
                    for (row, (base, found)) in rows.enumerate() {
                        sums.row(tensor, first + row, (base, found, &x), added[first + row], dtype)?;
                    }
                }
            }
        }
        Ok(sums)
    }

    fn row(
        &mut self,
        tensor: &Tensor,
        row: usize,
        (base, found, x): (&[f64], &[f64], &[f64]),
        (adapter, adapter_size): (f64, f64),
        dtype: WeightDType,
    ) -> Result<(), TrainError> {
        let (mut before, mut after, mut bound, mut size) = (0.0, 0.0, 0.0, adapter_size);
        for ((base, found), x) in base.iter().zip(found).zip(x) {
            before += base * x;
            after += found * x;
            size += (base * x).abs();
            bound += rounding(*found, dtype) * x.abs();
        }
        let want = before + adapter;
        // The sums themselves are rounded, too, in f64: once for each term at most.
        bound += 2.0 * size * x.len() as f64 * f64::EPSILON;
        // Written so that no number that is none passes.
        if (after - want).abs() <= bound {
            self.error += (after - want).powi(2);
            self.output += want.powi(2);
            self.adapter += adapter.powi(2);
            return Ok(());
        }
        Err(differs(tensor, row, want, after))
    }

    /// The error over the output.
    pub fn difference(&self) -> f64 {
        ratio(self.error, self.output)
    }

    /// The error over what the adapter adds.
    pub fn of_adapter(&self) -> f64 {
        ratio(self.error, self.adapter)
    }
}

/// An adapter that adds nothing has nothing that rounding could hide.
fn ratio(error: f64, whole: f64) -> f64 {
    if whole > 0.0 { (error / whole).sqrt() } else { 0.0 }
}

/// The most that rounding to nearest has moved what is `value` now: half a unit in the last of its p bits, or,
/// below the smallest normal number, half of the smallest there is.
fn rounding(value: f64, dtype: WeightDType) -> f64 {
    let (bits, smallest) = match dtype {
        WeightDType::F32 => (24, -149),
        WeightDType::BF16 => (8, -133),
        WeightDType::F16 => (11, -24),
    };
    (value.abs() * 2f64.powi(-bits)).max(2f64.powi(smallest - 1)) * (1.0 + 1e-6)
}

/// Base elements were read as f32, which may have rounded an f64 file's a second time.
fn near(base: f64, found: f64, dtype: WeightDType) -> bool {
    (base - found).abs() <= rounding(found, dtype) + base.abs() * 2f64.powi(-24)
}

fn random(name: &str, count: usize) -> Vec<f64> {
    let mut values = vec![0f32; count];
    fill(Init::Uniform { bound: 1.0 }, 0, name, 0, &mut values);
    values.into_iter().map(f64::from).collect()
}

fn not_finite(tensor: &Tensor, base: f64, at: usize, dtype: WeightDType) -> TrainError {
    let name = &tensor.name;
    TrainError::Settings(if base.is_finite() {
        format!(
            "element {at} of {name} is too large for {dtype} ({base:e} before the adapter); export with --dtype bf16 \
             or f32"
        )
    } else {
        format!("element {at} of the model's {name} is {base}, no finite number; the model is damaged")
    })
}

fn differs(tensor: &Tensor, at: usize, want: f64, found: f64) -> TrainError {
    TrainError::Internal(format!(
        "the written tensor {} is not base and adapter: at {at} it gives {found:e} in place of {want:e}, and nothing \
         was kept",
        tensor.name
    ))
}

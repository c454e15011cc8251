//! A written tensor against base and adapter.
//!
//! With a random x, W' x has to be W x + scale B (A x), computed the way the adapter computes it, as near as
//! rounding each element of W' to its type once allows. Tensors without an adapter are compared by element.

use rayon::prelude::*;

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
        let rounding = Rounding::of(dtype);
        let (mut base_bytes, mut bytes) = (Vec::new(), Vec::new());
        for range in tensor.ranges() {
            tensor.elements.range(range.clone(), WeightDType::F32, &mut base_bytes)?;
            written.range(range.clone(), WeightDType::F32, &mut bytes)?;
            let (base, found): (Vec<f64>, Vec<f64>) =
                (floats(&base_bytes).collect(), floats(&bytes).collect());
            if let Some(at) = found.par_iter().position_first(|value| !value.is_finite()) {
                return Err(not_finite(tensor, base[at], range.start + at, dtype));
            }
            let Some(added) = &added else {
                let pairs = base.par_iter().zip(&found);
                match pairs.position_first(|(base, found)| !rounding.explains(*base, *found)) {
                    Some(at) => return Err(differs(tensor, range.start + at, base[at], found[at])),
                    None => continue,
                }
            };
            let (columns, first) = (tensor.columns(), range.start / tensor.columns());
            let rows = base.par_chunks(columns).zip(found.par_chunks(columns)).enumerate();
            let rows = rows.map(|(row, (base, found))| {
                let output = Output::of(base, found, &x, added[first + row], rounding);
                if output.is_near() {
                    Ok(output)
                } else {
                    Err(differs(tensor, first + row, output.want, output.found))
                }
            });
            for output in rows.collect::<Result<Vec<Output>, TrainError>>()? {
                sums.error += (output.found - output.want).powi(2);
                sums.output += output.want.powi(2);
                sums.adapter += output.adapter.powi(2);
            }
        }
        Ok(sums)
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

/// One row's product with x.
struct Output {
    /// What base and adapter give.
    want: f64,
    /// What the adapter gives of it.
    adapter: f64,
    /// What was written gives.
    found: f64,
    /// How far rounding can have moved it.
    bound: f64,
}

impl Output {
    fn of(
        base: &[f64],
        written: &[f64],
        x: &[f64],
        (adapter, adapter_size): (f64, f64),
        rounding: Rounding,
    ) -> Output {
        let (mut want, mut found, mut bound, mut size) = (adapter, 0.0, 0.0, adapter_size);
        for ((base, written), x) in base.iter().zip(written).zip(x) {
            want += base * x;
            found += written * x;
            size += (base * x).abs();
            bound += rounding.most(*written) * x.abs();
        }
        // The sums themselves are rounded, too, in f64: once for each term at most.
        bound += 2.0 * size * x.len() as f64 * f64::EPSILON;
        Output { want, adapter, found, bound }
    }

    /// No number that is none is near anything.
    fn is_near(&self) -> bool {
        (self.found - self.want).abs() <= self.bound
    }
}

/// An adapter that adds nothing has nothing that rounding could hide.
fn ratio(error: f64, whole: f64) -> f64 {
    if whole > 0.0 { (error / whole).sqrt() } else { 0.0 }
}

/// How rounding to nearest moves values of a type.
#[derive(Clone, Copy)]
struct Rounding {
    /// Half a unit in the last of the type's bits, for 1.
    unit: f64,
    /// Half of the smallest number that there is.
    least: f64,
}

impl Rounding {
    fn of(dtype: WeightDType) -> Rounding {
        let (bits, smallest) = match dtype {
            WeightDType::F32 => (24, -149),
            WeightDType::BF16 => (8, -133),
            WeightDType::F16 => (11, -24),
        };
        let slack = 1.0 + 1e-6;
        Rounding { unit: 2f64.powi(-bits) * slack, least: 2f64.powi(smallest - 1) * slack }
    }

    /// The most that what is `value` now was moved.
    fn most(self, value: f64) -> f64 {
        (value.abs() * self.unit).max(self.least)
    }

    /// Whether `found` is `base` rounded. Base elements were read as f32, which may have rounded those of an f64
    /// file a second time.
    fn explains(self, base: f64, found: f64) -> bool {
        (base - found).abs() <= self.most(found) + base.abs() * 2f64.powi(-24)
    }
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

//! The kernels for the processor that candle lacks or has in another meaning: one file a family. All compute in f32.

pub mod activation;
pub mod attention;
pub mod index;
pub mod loss;
pub mod norm;
pub mod optim;
pub mod quant;
pub mod random;
pub mod rope;
pub mod softmax;
pub mod words;

use candle_core::{DType as CandleType, Device as Placed, Result, Storage, Tensor, WithDType};
use finetune_plugin_api::program::TensorType;

use crate::ops::{Step, candle_type};

/// The elements, one after another.
fn flat<T: WithDType>(x: &Tensor) -> Result<Vec<T>> {
    mapped(x, |element: T| element)
}

/// The elements as f32, one after another.
fn floats(x: &Tensor) -> Result<Vec<f32>> {
    match x.dtype() {
        CandleType::F16 => mapped(x, half::f16::to_f32),
        CandleType::BF16 => mapped(x, half::bf16::to_f32),
        CandleType::F32 => flat(x),
        _ => flat(&x.to_dtype(CandleType::F32)?),
    }
}

/// What is made of the elements, in one pass: nothing else is allocated if they lie one after another.
fn mapped<T: WithDType, U>(x: &Tensor, made: fn(T) -> U) -> Result<Vec<U>> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("an operand is elsewhere") };
    let all = storage.as_slice::<T>()?;
    let Some((first, end)) = layout.contiguous_offsets() else { return mapped(&x.contiguous()?, made) };
    Ok(all[first..end].iter().map(|&element| made(element)).collect())
}

/// The only element of a scalar.
fn scalar(x: &Tensor) -> Result<f32> {
    x.to_dtype(CandleType::F32)?.flatten_all()?.get(0)?.to_scalar()
}

/// A tensor of that type with these elements, each rounded once.
fn tensor(values: Vec<f32>, ty: &TensorType) -> Result<Tensor> {
    Tensor::from_vec(values, ty.shape.as_slice(), &Placed::Cpu)?.to_dtype(candle_type(ty.dtype))
}

/// The result of that number of a step, with these elements.
fn result(step: &Step, number: usize, values: Vec<f32>) -> Result<Tensor> {
    tensor(values, step.results[number])
}

/// A sum that does not lose what is small beside it.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f64::from).sum::<f64>() as f32
}

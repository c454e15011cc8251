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

use candle_core::{DType as CandleType, Device as Placed, Result, Tensor, WithDType};
use finetune_plugin_api::program::TensorType;

use crate::ops::{Step, candle_type};

/// The elements, one after another.
fn flat<T: WithDType>(x: &Tensor) -> Result<Vec<T>> {
    x.flatten_all()?.to_vec1::<T>()
}

/// The elements as f32, one after another.
fn floats(x: &Tensor) -> Result<Vec<f32>> {
    flat(&x.to_dtype(CandleType::F32)?)
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

//! Kernels that candle lacks, each for the processor and CUDA.
//!
//! On a GPU a kernel gets the addresses of its operands and results, all contiguous, then numbers (`Launch`).
//! CUDA's source is `kernels.cu`, compiled to `kernels.ptx` by `cuda/ptx.sh`.

#[cfg(feature = "cuda")]
mod cuda;
mod host;

use candle_core::{DType as CandleType, Result, Tensor};

/// What is done with two whole numbers. Its number is the kernels' too.
#[derive(Clone, Copy)]
pub enum Word {
    Add = 0,
    Sub = 1,
    Mul = 2,
    /// The whole part, 0 for a divisor of 0.
    Div = 3,
    Max = 4,
    Min = 5,
    And = 6,
    Or = 7,
    /// 0 from 32 bits on.
    Shl = 8,
    /// 0 from 32 bits on.
    Shr = 9,
}

/// A kernel's run on a GPU.
#[allow(dead_code)] // on the processor there is none
struct Launch<'a> {
    /// The function's name in the kernels' source.
    name: &'static str,
    /// Contiguous.
    operands: &'a [&'a Tensor],
    dtype: CandleType,
    shape: &'a [usize],
    numbers: &'a [u32],
    /// How many threads there are to be, at least.
    threads: usize,
}

impl Launch<'_> {
    fn run(&self) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        return cuda::run(self);
        #[cfg(not(feature = "cuda"))]
        candle_core::bail!("{} is for a GPU, and this is built for the processor", self.name)
    }
}

/// Whole numbers or truth values of one shape; wraps.
pub fn words(word: Word, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    if a.device().is_cpu() {
        return host::words(word, &a, &b);
    }
    let count = a.elem_count();
    let name = if a.dtype() == CandleType::U8 { "words_u8" } else { "words_u32" };
    let numbers = [number(count)?, word as u32];
    let operands = [&a, &b];
    Launch { name, operands: &operands, dtype: a.dtype(), shape: a.dims(), numbers: &numbers, threads: count }
        .run()
}

/// Whole numbers as a 16-bit float type, rounded once.
pub fn cast_words(x: &Tensor, to: CandleType) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.device().is_cpu() {
        return host::cast_words(&x, to);
    }
    let count = x.elem_count();
    let name = if to == CandleType::F16 { "words_to_f16" } else { "words_to_bf16" };
    let numbers = [number(count)?];
    Launch { name, operands: &[&x], dtype: to, shape: x.dims(), numbers: &numbers, threads: count }.run()
}

/// f32 as whole numbers: toward zero, clamped, NaN to 0.
pub fn cast_to_words(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.device().is_cpu() {
        return x.to_dtype(CandleType::U32);
    }
    let count = x.elem_count();
    let numbers = [number(count)?];
    let (dtype, shape) = (CandleType::U32, x.dims());
    Launch { name: "f32_to_words", operands: &[&x], dtype, shape, numbers: &numbers, threads: count }.run()
}

/// `u32[S, channels]` for seed `u32[2]`, step `u32[]`, example `u32[S]` and position `u32[S]`.
pub fn random_bits(operands: [&Tensor; 4], channels: usize, site: usize) -> Result<Tensor> {
    let operands: Vec<Tensor> = operands.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
    let rows = operands[2].elem_count();
    if operands[0].device().is_cpu() {
        return host::random_bits(&operands, channels, site);
    }
    let threads = rows * channels.div_ceil(4);
    let numbers = [number(rows)?, number(channels)?, number(site)?];
    let operands: Vec<&Tensor> = operands.iter().collect();
    let (dtype, shape) = (CandleType::U32, &[rows, channels]);
    Launch { name: "random_bits", operands: &operands, dtype, shape, numbers: &numbers, threads }.run()
}

fn number(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| candle_core::Error::Msg(format!("{count} elements are beyond 2^32")))
}

//! How a kernel runs on Metal: the source is compiled on the machine, and what it becomes is put behind candle's own
//! work.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backend::BackendStorage;
use candle_core::metal_backend::DeviceId;
use candle_core::{DType as CandleType, MetalDevice, MetalError, Result, Storage};
use candle_metal_kernels::metal::{ComputeCommandEncoder, ComputePipeline, Library};
use candle_metal_kernels::{GemmDType, call_mlx_gemm};
use objc2::rc::Retained;
use objc2_metal::{
    MTLCompileOptions, MTLLanguageVersion, MTLMathFloatingPointFunctions, MTLMathMode, MTLSize,
};

use super::elementwise::{Code, From, Operand, Steps, run_into};
use super::product::{Matrix, Product};
use super::{Launch, Parameters, source};

#[derive(Default)]
struct Compiled {
    library: Option<Library>,
    kernels: HashMap<String, ComputePipeline>,
}

thread_local! {
    /// What was compiled, by device: all its work is on one thread.
    static COMPILED: RefCell<HashMap<DeviceId, Compiled>> = RefCell::default();
}

fn kernel(device: &MetalDevice, name: &str) -> Result<ComputePipeline> {
    COMPILED.with_borrow_mut(|compiled| {
        let compiled = compiled.entry(device.id()).or_default();
        if let Some(kernel) = compiled.kernels.get(name) {
            return Ok(kernel.clone());
        }
        let library = match &compiled.library {
            Some(library) => library,
            None => compiled.library.insert(library(device)?),
        };
        let function = library.get_function(name, None).map_err(MetalError::from)?;
        let kernel = device
            .metal_device()
            .new_compute_pipeline_state_with_function(&function)
            .map_err(MetalError::from)?;
        compiled.kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    })
}

fn library(device: &MetalDevice) -> Result<Library> {
    let text = source::text("prelude_metal.h");
    let library = device.metal_device().new_library_with_source(&text, Some(&options()));
    Ok(library.map_err(MetalError::from)?)
}

/// f32 is f32: no shortcuts that assume that there is no NaN, no approximate functions. Candle's own kernels are
/// compiled otherwise, which is why they do no arithmetic here but products.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_2);
    options.setMathMode(MTLMathMode::Safe);
    options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    options
}

/// Encodes a kernel behind what candle has encoded.
pub fn run(launch: &Launch) -> Result<()> {
    let Some(first) = launch.tensors.first() else { candle_core::bail!("a kernel without tensors") };
    let device = first.device().as_metal_device()?;
    let kernel = kernel(device, launch.name)?;
    let threads = super::threads_within(launch, kernel.max_total_threads_per_threadgroup())?;
    let locked: Vec<_> = launch.tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let guard = device.command_encoder()?;
    let encoder: &ComputeCommandEncoder = guard.as_ref();
    encoder.set_compute_pipeline_state(&kernel);
    for (number, (storage, layout)) in locked.iter().enumerate() {
        let Storage::Metal(storage) = &**storage else {
            candle_core::bail!("{}: an operand is elsewhere", launch.name)
        };
        let offset = layout.start_offset() * storage.dtype().size_in_bytes();
        // Candle keeps kernels apart that share a buffer that one of them writes.
        encoder.set_output_buffer(number, Some(storage.buffer()), offset);
    }
    match &launch.parameters {
        Parameters::Numbers(numbers) => encoder.set_bytes(locked.len(), numbers),
        Parameters::Elementwise(parameters) => encoder.set_bytes(locked.len(), *parameters),
    }
    let line = |width: usize| MTLSize { width, height: 1, depth: 1 };
    encoder.dispatch_thread_groups(line(launch.blocks), line(threads));
    Ok(())
}

/// A product by itself and then its sum with what is there, if that is the whole of a tensor.
fn add(product: &Product) -> Result<bool> {
    let Product { c, size: [m, n, _], count, beta, .. } = product;
    if *beta != 1.0 || c.tensor.elem_count() != count * m * n || c.tensor.dtype() != c.dtype {
        return Ok(false);
    }
    let alone = super::empty(c.tensor.dims(), c.dtype, c.tensor.device())?;
    let is_done = self::product(&Product { c: Matrix { tensor: &alone, ..*c }, beta: 0.0, ..*product })?;
    if is_done {
        let steps = Steps::one(Code::Add, From::Operand(0), From::Operand(1));
        run_into(&steps, &[Operand::Tensor(c.tensor), Operand::Tensor(&alone)], c.tensor)?;
    }
    Ok(is_done)
}

/// Has candle's kernel do a product; false if it cannot: it fills a buffer from its beginning, with elements of the
/// operands' type, out of matrices without gaps.
pub fn product(product: &Product) -> Result<bool> {
    let Product { a, b, c, size: [m, n, k], count, alpha, beta } = product;
    let dtype = match c.dtype {
        CandleType::F32 => GemmDType::F32,
        CandleType::F16 => GemmDType::F16,
        CandleType::BF16 => GemmDType::BF16,
        _ => return Ok(false),
    };
    let is_whole = c.first == 0
        && c.tensor.layout().start_offset() == 0
        && c.row == *n
        && (*count == 1 || c.step == m * n);
    let has_no_gaps =
        |x: &Matrix, rows: usize, columns: usize| x.row == if x.transposed { rows } else { columns };
    let is_plain = *alpha == 1.0 && is_whole;
    let is_one_type = [a, b].iter().all(|x| x.dtype == c.dtype);
    if !(is_plain && is_one_type && has_no_gaps(a, *m, *k) && has_no_gaps(b, *k, *n)) {
        return Ok(false);
    }
    if *beta != 0.0 {
        return add(product);
    }
    let device = c.tensor.device().as_metal_device()?;
    let strides = |x: &Matrix| if x.transposed { [x.step, 1, x.row] } else { [x.step, x.row, 1] };
    let first = |x: &Matrix| {
        let begin = x.tensor.layout().start_offset() * x.tensor.dtype().size_in_bytes();
        begin + x.first * x.dtype.size_in_bytes()
    };
    let locked = [a, b, c].map(|x| x.tensor.storage_and_layout().0);
    let [Storage::Metal(in_a), Storage::Metal(in_b), Storage::Metal(in_c)] =
        [&*locked[0], &*locked[1], &*locked[2]]
    else {
        candle_core::bail!("an operand of a product is elsewhere")
    };
    let encoder = device.command_encoder()?;
    call_mlx_gemm(
        device.metal_device(),
        &encoder,
        device.kernels(),
        dtype,
        (*count, *m, *n, *k),
        &strides(a),
        first(a),
        in_a.buffer(),
        &strides(b),
        first(b),
        in_b.buffer(),
        in_c.buffer(),
    )
    .map_err(MetalError::from)?;
    Ok(true)
}

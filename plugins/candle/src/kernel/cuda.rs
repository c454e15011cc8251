//! How a kernel runs on CUDA.

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice as Slice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType as CandleType, Layout, Result, Storage, Tensor};

use super::Launch;

/// What nvcc made of `kernels.cu` (`cuda/ptx.sh`).
const PTX: &str = include_str!("kernels.ptx");
const BLOCK: u32 = 256;

/// Runs a kernel and wraps what it wrote.
#[allow(unsafe_code)]
pub fn run(launch: &Launch) -> Result<Tensor> {
    let first =
        launch.operands.first().ok_or_else(|| candle_core::Error::Msg("a kernel without operands".into()))?;
    let device = first.device().as_cuda_device()?;
    let function = device.get_or_load_custom_func(launch.name, "finetune", PTX)?;
    let locked: Vec<_> = launch.operands.iter().map(|operand| operand.storage_and_layout()).collect();
    let mut addresses = Vec::with_capacity(locked.len() + 1);
    for (storage, layout) in &locked {
        let Storage::Cuda(storage) = &**storage else {
            candle_core::bail!("{}: an operand elsewhere", launch.name)
        };
        addresses.push(address(storage, layout)?);
    }
    let count: usize = launch.shape.iter().product();
    // SAFETY: the kernel writes every element before anything can read it: all is in the order of one stream.
    let result = unsafe {
        match launch.dtype {
            CandleType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(count)?, device.clone()),
            CandleType::F16 => {
                CudaStorage::wrap_cuda_slice(device.alloc::<half::f16>(count)?, device.clone())
            }
            CandleType::BF16 => {
                CudaStorage::wrap_cuda_slice(device.alloc::<half::bf16>(count)?, device.clone())
            }
            CandleType::U32 => CudaStorage::wrap_cuda_slice(device.alloc::<u32>(count)?, device.clone()),
            _ => CudaStorage::wrap_cuda_slice(device.alloc::<u8>(count)?, device.clone()),
        }
    };
    addresses.push(address(&result, &Layout::contiguous(launch.shape))?);
    let mut builder = function.builder();
    addresses.iter().for_each(|address| {
        builder.arg(address);
    });
    launch.numbers.iter().for_each(|number| {
        builder.arg(number);
    });
    let blocks = u32::try_from(launch.threads.div_ceil(BLOCK as usize).max(1));
    let blocks =
        blocks.map_err(|_| candle_core::Error::Msg(format!("{}: too many elements", launch.name)))?;
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel's signature, and it stays within the counts among them.
    unsafe { builder.launch(config) }.w()?;
    Ok(Tensor::from_storage(Storage::Cuda(result), launch.shape, BackpropOp::none(), false))
}

/// Where on the device a contiguous tensor begins.
fn address(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let first = (layout.start_offset() * storage.slice.dtype_size()) as u64;
    Ok(storage.slice.base() + first)
}

trait Addressed {
    fn base(&self) -> u64;
    fn dtype_size(&self) -> usize;
}

impl Addressed for Slice {
    /// All work is on one stream, so the guard that orders streams has nothing to do.
    fn base(&self) -> u64 {
        match self {
            Slice::F32(x) => x.device_ptr(x.stream()).0,
            Slice::F16(x) => x.device_ptr(x.stream()).0,
            Slice::BF16(x) => x.device_ptr(x.stream()).0,
            Slice::U32(x) => x.device_ptr(x.stream()).0,
            Slice::U8(x) => x.device_ptr(x.stream()).0,
            _ => 0,
        }
    }

    fn dtype_size(&self) -> usize {
        match self {
            Slice::F32(_) | Slice::U32(_) => 4,
            Slice::F16(_) | Slice::BF16(_) => 2,
            _ => 1,
        }
    }
}

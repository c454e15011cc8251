//! NVIDIA's GPUs through CUDA.

use candle_core::Device as Placed;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};
use finetune_plugin_api::export::{DeviceDescription, Error, JsonObject, MemoryInfo};

use super::DTYPES;
use crate::device::failure;

/// What is asked for memory.
pub struct Figures;

fn unavailable(error: DriverError) -> Error {
    Error::unavailable(format!("NVIDIA's driver: {error}"))
}

pub fn probe() -> Result<Vec<DeviceDescription>, Error> {
    result::init().map_err(unavailable)?;
    let count = CudaContext::device_count().map_err(unavailable)?;
    (0..usize::try_from(count).unwrap_or(0)).map(describe).collect()
}

fn describe(index: usize) -> Result<DeviceDescription, Error> {
    let context = CudaContext::new(index).map_err(unavailable)?;
    let (free, total) = context.mem_get_info().map_err(unavailable)?;
    let mut details = JsonObject::new();
    let attribute = |which| context.attribute(which).map_err(unavailable);
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    details.insert("compute_capability".into(), format!("{major}.{minor}").into());
    Ok(DeviceDescription {
        name: context.name().map_err(unavailable)?,
        kind: "cuda".into(),
        memory_total: total as u64,
        memory_available: free as u64,
        unified: false,
        dtypes: DTYPES.to_vec(),
        details,
    })
}

/// A stream of its own: candle's default is one for each thread.
pub fn open(index: u32) -> Result<(Placed, Figures), Error> {
    result::init().map_err(unavailable)?;
    let count = usize::try_from(CudaContext::device_count().map_err(unavailable)?).unwrap_or(0);
    if index as usize >= count {
        return Err(Error::no_such_device(index, count));
    }
    let placed = Placed::new_cuda_with_stream(index as usize).map_err(failure)?;
    #[allow(unsafe_code)]
    if let Ok(device) = placed.as_cuda_device() {
        // SAFETY: events order streams; all work is on this one, and so are allocations.
        unsafe { device.disable_event_tracking() };
        keep_freed_memory(device).map_err(unavailable)?;
        set_sums(device)?;
    }
    Ok((placed, Figures))
}

/// The driver says it itself.
pub fn has_room(_: &Placed, _: usize) -> bool {
    true
}

/// Memory that is given back stays with the process instead of going back to the driver at the next
/// synchronisation, so that the next step has it at once.
#[allow(unsafe_code)]
fn keep_freed_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let ordinal = device.cuda_stream().context().cu_device();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a number of 64 bits, and the pool lives as long as the device.
    unsafe {
        let pool = result::device::get_default_mem_pool(ordinal)?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

/// cuBLAS may not add parts of a sum in the short type of the result.
#[allow(unsafe_code)]
fn set_sums(device: &CudaDevice) -> Result<(), Error> {
    let blas = device.cublas_handle();
    let mode = cublas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // SAFETY: the handle lives as long as the device.
    let status = unsafe { cublas::cublasSetMathMode(*blas.handle(), mode) };
    match status {
        cublas::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(Error::unavailable(format!("cuBLAS takes no mode: {other:?}"))),
    }
}

/// Runs what uses the device.
pub fn scoped<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// What the pool has of the device's memory that this process allocates from, and how much of it is given out.
struct Pool {
    reserved: u64,
    used: u64,
}

#[allow(unsafe_code)]
fn pool(device: &CudaDevice) -> Result<Pool, DriverError> {
    let ordinal = device.cuda_stream().context().cu_device();
    // SAFETY: the attributes are numbers of 64 bits, and the pool lives as long as the device.
    unsafe {
        let pool = result::device::get_default_mem_pool(ordinal)?;
        let read = |attribute| -> Result<u64, DriverError> {
            let mut bytes = 0u64;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast())?;
            Ok(bytes)
        };
        Ok(Pool {
            reserved: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
            used: read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        })
    }
}

impl Figures {
    /// The driver keeps freed memory for this process, so what it says is free is less than what can be had: what the
    /// pool has and does not use can be had too, what other processes hold cannot.
    pub fn memory(&mut self, placed: &Placed, counted: MemoryInfo) -> MemoryInfo {
        let Ok(device) = placed.as_cuda_device() else { return counted };
        let info = device.cuda_stream().context().mem_get_info();
        let (free, total) = info.map_or((0, 0), |(free, total)| (free as u64, total as u64));
        let pool = pool(device).unwrap_or(Pool { reserved: 0, used: 0 });
        MemoryInfo {
            total,
            available: free + pool.reserved.saturating_sub(pool.used),
            cached: pool.reserved.saturating_sub(counted.used),
            ..counted
        }
    }
}

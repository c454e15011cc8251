//! How a kernel runs on CUDA.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice as Slice, DeviceId, WrapErr};
use candle_core::{Layout, Result, Storage, Tensor};

use super::{Launch, Numbers, Parameters, elementwise};

/// What nvcc made of the kernels (`cuda/ptx.sh`).
const PTX: &str = include_str!("kernels.ptx");

#[allow(unsafe_code)]
// SAFETY: plain data, laid out as in the kernels' source.
unsafe impl DeviceRepr for Numbers {}
#[allow(unsafe_code)]
// SAFETY: plain data, laid out as in the kernels' source.
unsafe impl DeviceRepr for elementwise::Parameters {}

thread_local! {
    /// Functions that were looked up, by device and name: the driver takes longer for that than for a launch.
    static FUNCTIONS: RefCell<HashMap<(DeviceId, String), CudaFunction>> = RefCell::default();
}

fn function(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    FUNCTIONS.with_borrow_mut(|functions| {
        let key = (device.id(), name.to_owned());
        if let Some(function) = functions.get(&key) {
            return Ok(function.clone());
        }
        let function = device.get_or_load_custom_func(name, "finetune", PTX)?.into_cuda_function();
        functions.insert(key, function.clone());
        Ok(function)
    })
}

/// Puts a kernel into the device's stream.
#[allow(unsafe_code)]
pub fn run(launch: &Launch) -> Result<()> {
    let Some(first) = launch.tensors.first() else { candle_core::bail!("a kernel without tensors") };
    let device = first.device().as_cuda_device()?;
    let function = function(device, launch.name)?;
    let addresses: Vec<u64> = launch.tensors.iter().map(|tensor| address(tensor)).collect::<Result<_>>()?;
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    addresses.iter().for_each(|address| {
        builder.arg(address);
    });
    match &launch.parameters {
        Parameters::Numbers(numbers) => builder.arg(numbers),
        Parameters::Elementwise(parameters) => builder.arg(*parameters),
    };
    let blocks = u32::try_from(launch.blocks).map_err(candle_core::Error::wrap)?;
    let config = LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (launch.threads as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the arguments are those of the kernel's signature, and it stays within the sizes among them.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Where on the device a contiguous tensor begins.
pub fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { candle_core::bail!("a kernel's operand is elsewhere") };
    Ok(place(storage, layout))
}

/// All work is on one stream, so the guards that order streams have nothing to do.
fn place(storage: &CudaStorage, layout: &Layout) -> u64 {
    let (base, size) = match &storage.slice {
        Slice::F32(x) => (x.device_ptr(x.stream()).0, 4),
        Slice::F16(x) => (x.device_ptr(x.stream()).0, 2),
        Slice::BF16(x) => (x.device_ptr(x.stream()).0, 2),
        Slice::U32(x) => (x.device_ptr(x.stream()).0, 4),
        Slice::U8(x) => (x.device_ptr(x.stream()).0, 1),
        _ => (0, 0),
    };
    base + (layout.start_offset() * size) as u64
}

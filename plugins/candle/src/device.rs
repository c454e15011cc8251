//! The device: buffers, memory, compiled programs.

mod found;

use std::fmt::Display;

use candle_core::{CpuStorage, DType as CandleType, Device as Placed, Storage, Tensor};
use finetune_plugin_api::export::{
    Bound, Device, Error, JsonObject, Lease, MemoryInfo, Meter, Staged, serde_json,
};
use finetune_plugin_api::plan::PlanOptions;
use finetune_plugin_api::program::{DType, Program, TensorType};

use crate::compile::Compiled;
use crate::{kernel, ops};

pub use found::probe;

/// A tensor of the device.
pub struct Buffer {
    contents: Staged<Tensor>,
    /// `None` while a run has it, with the state that it updates.
    lease: Option<Lease>,
}

/// An open device.
pub struct CandleDevice {
    placed: Placed,
    meter: Meter,
    figures: found::Figures,
}

/// Candle's type for one of the language's; a truth value is a byte, as it is in the language.
pub fn candle_type(dtype: DType) -> Result<CandleType, Error> {
    Ok(match dtype {
        DType::F32 => CandleType::F32,
        DType::F16 => CandleType::F16,
        DType::Bf16 => CandleType::BF16,
        DType::U32 => CandleType::U32,
        DType::Bool => CandleType::U8,
        other => return Err(Error::unsupported(format!("candle has no element type {other}")).untouched()),
    })
}

/// What candle says, as an error of its kind. Candle keeps the driver's errors as text only.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub fn failure(error: candle_core::Error) -> Error {
    match error {
        candle_core::Error::UnsupportedDTypeForOp(..) => {
            Error::unsupported(format!("candle cannot: {error}"))
        }
        error => Error::from_driver("candle", &error.to_string()),
    }
}

fn from_bytes(bytes: &[u8], ty: &TensorType, placed: &Placed) -> Result<Tensor, Error> {
    let dtype = candle_type(ty.dtype)?;
    check_room(placed, ty.bytes(), format_args!("a tensor {ty}"))?;
    Tensor::from_raw_buffer(bytes, dtype, &ty.shape, placed).map_err(failure)
}

/// Reads a tensor's bytes from that one on, and no others: what is packed into one buffer is read in many parts.
fn read(tensor: &Tensor, offset: usize, into: &mut [u8]) -> Result<(), Error> {
    let size = tensor.dtype().size_in_bytes();
    let end = offset.checked_add(into.len()).filter(|&end| end <= tensor.elem_count() * size);
    let end = end.ok_or_else(|| Error::outside(offset, into.len()))?;
    if into.is_empty() {
        return Ok(());
    }
    let (first, last) = (offset / size, end.div_ceil(size));
    if (last - first) * size == into.len() {
        return read_elements(tensor, first, into).map_err(failure);
    }
    // It begins or ends within an element.
    let mut whole = vec![0; (last - first) * size];
    read_elements(tensor, first, &mut whole).map_err(failure)?;
    into.copy_from_slice(&whole[offset - first * size..][..into.len()]);
    Ok(())
}

/// Reads as many whole elements as there is place for.
fn read_elements(tensor: &Tensor, first: usize, into: &mut [u8]) -> candle_core::Result<()> {
    let count = into.len() / tensor.dtype().size_in_bytes();
    let mut part = tensor.flatten_all()?;
    if count < part.elem_count() {
        part = part.narrow(0, first, count)?;
        // Of what lies on a GPU candle moves all that the memory holds, whatever part of it the tensor is.
        if kernel::on_gpu(part.device()) {
            part = ops::copied(&part)?;
        }
    }
    let part = ops::flat(&part)?.to_device(&Placed::Cpu)?;
    let (storage, layout) = part.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("what was moved here is not here") };
    let first = layout.start_offset();
    fn write<T: Copy, const N: usize>(elements: &[T], into: &mut [u8], bytes: impl Fn(T) -> [u8; N]) {
        let places = into.chunks_exact_mut(N).zip(elements);
        places.for_each(|(place, &element)| place.copy_from_slice(&bytes(element)));
    }
    match storage {
        CpuStorage::F32(x) => write(&x[first..][..count], into, f32::to_le_bytes),
        CpuStorage::F16(x) => write(&x[first..][..count], into, half::f16::to_le_bytes),
        CpuStorage::BF16(x) => write(&x[first..][..count], into, half::bf16::to_le_bytes),
        CpuStorage::U32(x) => write(&x[first..][..count], into, u32::to_le_bytes),
        CpuStorage::U8(x) => into.copy_from_slice(&x[first..][..count]),
        _ => candle_core::bail!("the language has no elements of {:?}", part.dtype()),
    }
    Ok(())
}

/// An error if so many bytes cannot be had for that.
pub fn check_room(placed: &Placed, bytes: usize, what: impl Display) -> Result<(), Error> {
    if bytes == 0 || found::has_room(placed, bytes) {
        return Ok(());
    }
    Err(Error::out_of_memory(format!("there are no {bytes} bytes for {what}")))
}

/// How the host foresees the memory of a run.
pub fn plan_options(placed: &Placed) -> PlanOptions {
    PlanOptions {
        strided_views: true,
        // What an output holds is there until the run is done: it may fail.
        direct_outputs: false,
        direct_state: true,
        align: 256,
        in_place: ops::workspace::in_place(placed).iter().map(ToString::to_string).collect(),
        workspace: ops::workspace::of(placed),
        ..PlanOptions::default()
    }
}

/// The buffers of states that a program updates, with their arguments' numbers, in the order of its updates.
fn for_states(
    compiled: &Compiled,
    arguments: &mut [Bound<'_, Buffer>],
    mut with: impl FnMut(usize, &mut Buffer),
) {
    for &number in compiled.updated() {
        if let Some(buffer) = arguments.get_mut(number).and_then(Bound::get_mut) {
            with(number, buffer);
        }
    }
}

impl CandleDevice {
    pub(crate) fn open(index: u32) -> Result<CandleDevice, Error> {
        let (placed, figures) = found::open(index)?;
        Ok(CandleDevice { placed, meter: Meter::default(), figures })
    }

    /// The tensor of a buffer, made if need be.
    fn tensor(&self, buffer: &Buffer) -> Result<Tensor, Error> {
        let ty = buffer.contents.ty();
        buffer.contents.get(|bytes| match bytes {
            Some(bytes) => from_bytes(bytes, ty, &self.placed),
            None => {
                // Others may have got what was there when it was allocated.
                check_room(&self.placed, ty.bytes(), format_args!("a tensor {ty}"))?;
                Tensor::zeros(&ty.shape[..], candle_type(ty.dtype)?, &self.placed).map_err(failure)
            }
        })
    }
}

impl Device for CandleDevice {
    type Buffer = Buffer;
    type Compiled = Compiled;
    const ASYNCHRONOUS: bool = cfg!(any(feature = "cuda", feature = "metal"));

    fn ops(&self) -> Vec<&'static str> {
        ops::native(&self.placed)
    }

    fn properties(&self) -> JsonObject {
        let mut properties = JsonObject::new();
        let plan = plan_options(&self.placed);
        // The options are plain data: numbers, words and lists always have a JSON form.
        properties.insert("plan".into(), serde_json::to_value(plan).unwrap_or_default());
        properties
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        candle_type(ty.dtype)?;
        check_room(&self.placed, ty.bytes(), format_args!("a tensor {ty}")).map_err(Error::untouched)?;
        Ok(Buffer { contents: Staged::empty(ty), lease: Some(self.meter.lease(ty.bytes())) })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let ty = buffer.contents.ty().clone();
        let make = |bytes: &[u8]| from_bytes(bytes, &ty, &self.placed);
        buffer.contents.upload(offset, bytes, make, |tensor, into| read(tensor, 0, into))
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        found::scoped(|| read(&self.tensor(buffer)?, offset, into))
    }

    fn compile(&mut self, program: Program) -> Result<Compiled, Error> {
        program.types().iter().try_for_each(|ty| candle_type(ty.dtype).map(|_| ()))?;
        Ok(Compiled::new(program, &self.placed))
    }

    fn run(
        &mut self,
        compiled: &mut Compiled,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        let tensors = arguments.iter().map(|bound| Ok((self.tensor(bound.get())?, None)));
        let tensors: Result<Vec<(Tensor, Option<Lease>)>, Error> = tensors.collect();
        let mut tensors = tensors.map_err(Error::untouched)?;
        // A buffer that held on to its state would keep the old one beside the new.
        for_states(compiled, arguments, |number, buffer| {
            buffer.contents.clear();
            tensors[number].1 = buffer.lease.take();
        });
        let ran = found::scoped(|| compiled.run(&self.placed, &self.meter, tensors));
        for_states(compiled, arguments, |_, buffer| {
            buffer.lease = Some(self.meter.lease(buffer.contents.ty().bytes()));
        });
        let (results, error) = match ran {
            Ok(results) => (results.into_iter().map(Some).collect(), None),
            Err(failed) => {
                let error = if failed.touched { failed.error } else { failed.error.untouched() };
                (failed.states, Some(error))
            }
        };
        let mut each = results.into_iter();
        if error.is_none() {
            for (output, tensor) in outputs.iter_mut().zip(&mut each) {
                tensor.into_iter().for_each(|tensor| output.contents.set(tensor));
            }
        }
        for_states(compiled, arguments, |_, buffer| {
            if let Some(tensor) = each.next().flatten() {
                buffer.contents.set(tensor);
            }
        });
        error.map_or(Ok(()), Err)
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        Ok(self.figures.memory(&self.placed, self.meter.info()))
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        self.meter.reset_peak();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.placed.synchronize().map_err(failure)
    }
}

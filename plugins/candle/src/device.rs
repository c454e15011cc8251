//! The device: buffers, memory, compiled programs.

mod found;

use std::cell::RefCell;
use std::fmt::Display;

use candle_core::{CpuStorage, DType as CandleType, Device as Placed, Storage, Tensor};
use finetune_plugin_api::export::{Bound, Device, Error, JsonObject, Lease, MemoryInfo, Meter, serde_json};
use finetune_plugin_api::plan::PlanOptions;
use finetune_plugin_api::program::{DType, Program, TensorType};

use crate::compile::Compiled;
use crate::{kernel, ops};

pub use found::probe;

/// A tensor of the device.
pub struct Buffer {
    ty: TensorType,
    contents: RefCell<Contents>,
    _lease: Lease,
}

enum Contents {
    /// Nothing was written: an output gets its tensor from the first run.
    Empty,
    /// Being written in parts; what was not is zero.
    Parts(Vec<u8>),
    Whole(Tensor),
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

/// Bytes for a tensor that comes in parts, in main memory.
fn zeros(ty: &TensorType) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(ty.bytes());
    let none =
        |_| Error::out_of_memory(format!("there are no {} bytes for the parts of a tensor {ty}", ty.bytes()));
    reserved.map_err(none)?;
    bytes.resize(ty.bytes(), 0);
    Ok(bytes)
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
        direct_outputs: true,
        direct_state: true,
        align: 256,
        in_place: ops::workspace::in_place(placed).iter().map(ToString::to_string).collect(),
        workspace: ops::workspace::of(placed),
        ..PlanOptions::default()
    }
}

impl CandleDevice {
    pub(crate) fn open(index: u32) -> Result<CandleDevice, Error> {
        let (placed, figures) = found::open(index)?;
        Ok(CandleDevice { placed, meter: Meter::default(), figures })
    }

    /// The tensor of a buffer, made if need be.
    fn tensor(&self, buffer: &Buffer) -> Result<Tensor, Error> {
        let mut contents = buffer.contents.borrow_mut();
        let tensor = match &*contents {
            Contents::Whole(tensor) => return Ok(tensor.clone()),
            Contents::Empty => {
                let (ty, dtype) = (&buffer.ty, candle_type(buffer.ty.dtype)?);
                // Others may have got what was there when it was allocated.
                check_room(&self.placed, ty.bytes(), format_args!("a tensor {ty}"))?;
                Tensor::zeros(buffer.ty.shape.as_slice(), dtype, &self.placed).map_err(failure)?
            }
            Contents::Parts(bytes) => from_bytes(bytes, &buffer.ty, &self.placed)?,
        };
        *contents = Contents::Whole(tensor.clone());
        Ok(tensor)
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
        let contents = RefCell::new(Contents::Empty);
        Ok(Buffer { ty: ty.clone(), contents, _lease: self.meter.lease(ty.bytes()) })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let total = buffer.ty.bytes();
        if offset == 0 && bytes.len() == total {
            let tensor = from_bytes(bytes, &buffer.ty, &self.placed)?;
            buffer.contents.replace(Contents::Whole(tensor));
            return Ok(());
        }
        let mut parts = match buffer.contents.replace(Contents::Empty) {
            Contents::Empty => zeros(&buffer.ty)?,
            Contents::Parts(parts) => parts,
            Contents::Whole(tensor) => {
                let mut bytes = zeros(&buffer.ty)?;
                read(&tensor, 0, &mut bytes)?;
                bytes
            }
        };
        let range = parts.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
        range.ok_or_else(|| Error::outside(offset, bytes.len()))?.copy_from_slice(bytes);
        // The last part of a tensor that comes in parts: it need not be held twice until it is used.
        let contents = match offset + bytes.len() == total {
            true => Contents::Whole(from_bytes(&parts, &buffer.ty, &self.placed)?),
            false => Contents::Parts(parts),
        };
        buffer.contents.replace(contents);
        Ok(())
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
        let tensors = arguments.iter().map(|bound| self.tensor(bound.get()));
        let tensors: Vec<Tensor> = tensors.collect::<Result<_, _>>().map_err(Error::untouched)?;
        // What they held is not held beside what they get.
        outputs.iter_mut().for_each(|output| {
            output.contents.replace(Contents::Empty);
        });
        let ran = found::scoped(|| compiled.run(&self.placed, &self.meter, tensors));
        let results = ran.map_err(|failed| match failed.touched {
            true => failed.error,
            false => failed.error.untouched(),
        })?;
        let mut each = results.into_iter();
        let missing = || Error::internal("the run gave fewer tensors than the program has results");
        for output in outputs.iter_mut() {
            output.contents.replace(Contents::Whole(each.next().ok_or_else(missing)?));
        }
        for &number in compiled.updated() {
            let buffer = arguments.get_mut(number).and_then(Bound::get_mut).ok_or_else(missing)?;
            buffer.contents.replace(Contents::Whole(each.next().ok_or_else(missing)?));
        }
        Ok(())
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

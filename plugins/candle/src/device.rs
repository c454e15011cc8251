//! The device: buffers, memory, compiled programs.

mod found;

use std::cell::RefCell;

use candle_core::{DType as CandleType, Device as Placed, Tensor};
use finetune_plugin_api::export::{Bound, Device, Error, JsonObject, Lease, MemoryInfo, Meter, serde_json};
use finetune_plugin_api::plan::PlanOptions;
use finetune_plugin_api::program::{DType, Program, TensorType};

use crate::compile::Compiled;
use crate::ops;

pub use found::probe;

/// A tensor of the device.
pub struct Buffer {
    ty: TensorType,
    contents: RefCell<Contents>,
    /// `None` while a run has it, with the state that it updates.
    lease: Option<Lease>,
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
    Tensor::from_raw_buffer(bytes, candle_type(ty.dtype)?, &ty.shape, placed).map_err(failure)
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    fn elements<T: candle_core::WithDType, const N: usize>(
        tensor: &Tensor,
        bytes: impl Fn(T) -> [u8; N],
    ) -> candle_core::Result<Vec<u8>> {
        Ok(tensor.flatten_all()?.to_vec1::<T>()?.into_iter().flat_map(bytes).collect())
    }
    let bytes = match tensor.dtype() {
        CandleType::F32 => elements(tensor, f32::to_le_bytes),
        CandleType::F16 => elements(tensor, half::f16::to_le_bytes),
        CandleType::BF16 => elements(tensor, half::bf16::to_le_bytes),
        CandleType::U32 => elements(tensor, u32::to_le_bytes),
        _ => elements(tensor, |byte: u8| [byte]),
    };
    bytes.map_err(failure)
}

fn check_room(placed: &Placed, ty: &TensorType) -> Result<(), Error> {
    if found::has_room(placed, ty.bytes()) {
        return Ok(());
    }
    Err(Error::out_of_memory(format!("there are no {} bytes for a tensor {ty}", ty.bytes())).untouched())
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
        let mut contents = buffer.contents.borrow_mut();
        let tensor = match &*contents {
            Contents::Whole(tensor) => return Ok(tensor.clone()),
            Contents::Empty => {
                let dtype = candle_type(buffer.ty.dtype)?;
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
        let plan = PlanOptions {
            strided_views: true,
            direct_outputs: true,
            direct_state: true,
            align: 256,
            ..PlanOptions::default()
        };
        // The options are plain data: numbers, words and lists always have a JSON form.
        properties.insert("plan".into(), serde_json::to_value(plan).unwrap_or_default());
        properties
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        candle_type(ty.dtype)?;
        check_room(&self.placed, ty)?;
        let contents = RefCell::new(Contents::Empty);
        Ok(Buffer { ty: ty.clone(), contents, lease: Some(self.meter.lease(ty.bytes())) })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let total = buffer.ty.bytes();
        if offset == 0 && bytes.len() == total {
            let tensor = from_bytes(bytes, &buffer.ty, &self.placed)?;
            buffer.contents.replace(Contents::Whole(tensor));
            return Ok(());
        }
        let mut parts = match buffer.contents.replace(Contents::Empty) {
            Contents::Empty => vec![0; total],
            Contents::Parts(parts) => parts,
            Contents::Whole(tensor) => to_bytes(&tensor)?,
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
        let bytes = found::scoped(|| to_bytes(&self.tensor(buffer)?))?;
        let range = bytes.get(offset..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(range.ok_or_else(|| Error::outside(offset, into.len()))?);
        Ok(())
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
        let mut tensors: Vec<(Tensor, Option<Lease>)> = tensors.collect::<Result<_, Error>>()?;
        // A buffer that held on to its state would keep the old one beside the new.
        for_states(compiled, arguments, |number, buffer| {
            buffer.contents.replace(Contents::Empty);
            tensors[number].1 = buffer.lease.take();
        });
        let ran = found::scoped(|| compiled.run(&self.placed, &self.meter, tensors));
        for_states(compiled, arguments, |_, buffer| {
            buffer.lease = Some(self.meter.lease(buffer.ty.bytes()));
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
                output.contents.replace(tensor.map_or(Contents::Empty, Contents::Whole));
            }
        }
        for_states(compiled, arguments, |_, buffer| {
            if let Some(tensor) = each.next().flatten() {
                buffer.contents.replace(Contents::Whole(tensor));
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

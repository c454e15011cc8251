//! The same plugin a version later: it has the new composite op natively, and gives the new extension.
#![forbid(unsafe_code)]

use finetune_plugin_api::abi::growth::{self, Clock};
use finetune_plugin_api::export::{
    Bound, Device, DeviceDescription, Error, Extension, JsonObject, Lease, MemoryInfo, Meter, Options, Plugin,
};
use finetune_plugin_api::program::{Class, DType, Program, TensorType, table};
use finetune_plugin_api::reference::{self, Rounding, Tensor};

finetune_plugin_api::export_plugin! {
    plugin: Newer,
    name: "newer",
    vendor: "a stranger",
    description: "Runs programs through the reference interpreter of version 1.1.0 of the interface",
}

struct Newer;

impl Plugin for Newer {
    type Device = Interpreter;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        Ok(vec![DeviceDescription {
            name: "reference interpreter".into(),
            kind: "cpu".into(),
            memory_total: 0,
            memory_available: 0,
            unified: true,
            dtypes: DType::ALL.to_vec(),
            details: JsonObject::new(),
        }])
    }

    fn open(index: u32, _options: &Options) -> Result<Interpreter, Error> {
        match index {
            0 => Ok(Interpreter { memory: Meter::default() }),
            _ => Err(Error::unavailable(format!("there is one device, 0; {index} was asked for"))),
        }
    }
}

struct Interpreter {
    memory: Meter,
}

/// A tensor as the host sees it: row major, little endian. It counts itself out when it is dropped.
struct Buffer {
    ty: TensorType,
    bytes: Vec<u8>,
    _lease: Lease,
}

impl Device for Interpreter {
    type Buffer = Buffer;
    type Compiled = Program;
    const ASYNCHRONOUS: bool = false;

    /// Every composite op, the one that came with version 1.1.0 too.
    fn ops(&self) -> Vec<&'static str> {
        let composites = table::TABLE.iter().filter(|def| def.class == Class::Composite);
        composites.map(|def| def.name).collect()
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(ty.bytes())
            .map_err(|_| Error::out_of_memory(format!("there are no {} bytes left for {ty}", ty.bytes())))?;
        bytes.resize(ty.bytes(), 0);
        Ok(Buffer { ty: ty.clone(), bytes, _lease: self.memory.lease(ty.bytes()) })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        buffer.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(&buffer.bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn compile(&mut self, program: Program) -> Result<Program, Error> {
        Ok(program)
    }

    fn run(
        &mut self,
        program: &mut Program,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        let tensors: Result<Vec<Tensor>, _> =
            arguments.iter().map(|arg| Tensor::from_bytes(&arg.get().ty, &arg.get().bytes)).collect();
        let outcome = tensors
            .and_then(|tensors| reference::run(program, &tensors, Rounding::Storage))
            .map_err(|error| Error::invalid_argument(error.to_string()).untouched())?;
        for (buffer, tensor) in outputs.iter_mut().zip(&outcome.outputs) {
            buffer.bytes = tensor.to_bytes();
        }
        let states = arguments.iter_mut().filter_map(Bound::get_mut);
        for (buffer, (_, tensor)) in states.zip(&outcome.states) {
            buffer.bytes = tensor.to_bytes();
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        Ok(self.memory.info())
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        self.memory.reset_peak();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn extension(&mut self, name: &str) -> Option<Extension> {
        (name == growth::NAME).then(|| Extension::new(Clock { double, frequency: 1000 }))
    }
}

extern "C" fn double(number: u64) -> u64 {
    2 * number
}

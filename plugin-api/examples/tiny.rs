//! A complete plugin: it runs every program, slowly, through the reference interpreter.
//!
//! ```text
//! cargo build -p finetune-plugin-api --example tiny
//! finetune plugins list --plugins target/debug/examples
//! ```
//!
//! A plugin of its own is a crate with `crate-type = ["cdylib"]` that depends on `finetune-plugin-api` and
//! looks like this file, with kernels in place of the interpreter.
#![forbid(unsafe_code)]

use finetune_plugin_api::export::{
    Bound, Device, DeviceDescription, Error, JsonObject, Lease, MemoryInfo, Meter, Options, Plugin,
};
use finetune_plugin_api::program::{DType, Program, TensorType};
use finetune_plugin_api::reference::{self, Rounding, Tensor};

finetune_plugin_api::export_plugin! {
    plugin: Tiny,
    name: "tiny",
    vendor: "the finetune project",
    description: "Runs programs on the processor through the reference interpreter, to show how a plugin is made",
}

struct Tiny;

impl Plugin for Tiny {
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

    /// None: the host writes every composite op as core ops before it compiles.
    fn ops(&self) -> Vec<&'static str> {
        Vec::new()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use finetune_plugin_api::conformance::check_device;

    /// All that a plugin has to test of the language; what is left is its own.
    #[test]
    fn the_device_conforms() {
        let report = check_device::<Tiny>(0).unwrap();
        assert!(report.is_passed(), "{report}");
    }
}

//! A device of a real library for the conformance suite, the whole way that the host goes: found in a folder, probed,
//! loaded, opened; programs lowered to the ops that the device names, compiled from their text, and run over the ABI.

use finetune_host::plugins::{Buffer, Choice, Device, DeviceError};
use finetune_host::transform;
use finetune_plugin_api::conformance::Runner;
use finetune_plugin_api::program::{DType, NativeOps, Program, Role, TensorType, ValueId};
use finetune_plugin_api::reference::Tensor;

/// A device as the host has it.
pub struct Loaded {
    device: Device,
    native: NativeOps,
    dtypes: Vec<String>,
}

impl Loaded {
    /// Opens the device; panics where it does not open.
    pub fn open(choice: &Choice) -> Loaded {
        let device = choice.open(&Default::default()).expect("a ready device opens");
        let native = device.ops().expect("a device says which ops it has");
        Loaded { device, native, dtypes: choice.device.dtypes.clone() }
    }

    /// Outputs and then states, after one run.
    fn results(&self, program: &Program, args: &[Tensor]) -> Result<Vec<(TensorType, Vec<u8>)>, DeviceError> {
        let compiled = self.device.compile(program)?;
        let upload = |tensor: &Tensor| self.device.upload_new(tensor.ty(), &tensor.to_bytes());
        let arguments: Vec<Buffer> = args.iter().map(upload).collect::<Result<_, _>>()?;
        let outputs = program.outputs().iter().map(|output| self.marked(program, output.value));
        let outputs: Vec<Buffer> = outputs.collect::<Result<_, _>>()?;
        self.device.run(
            &compiled,
            &arguments.iter().collect::<Vec<_>>(),
            &outputs.iter().collect::<Vec<_>>(),
        )?;
        let states = arguments.iter().zip(program.args()).filter(|(_, arg)| arg.role == Role::State);
        let buffers = outputs.iter().chain(states.map(|(buffer, _)| buffer));
        buffers.map(|buffer| Ok((buffer.ty().clone(), self.device.download_all(buffer)?))).collect()
    }

    /// A buffer in which everything shows that the device does not write.
    fn marked(&self, program: &Program, value: ValueId) -> Result<Buffer, DeviceError> {
        let ty = program.ty(value);
        self.device.upload_new(ty, &vec![0x5a; ty.bytes()])
    }
}

impl Runner for Loaded {
    fn supports(&self, dtype: DType) -> bool {
        self.dtypes.iter().any(|name| name == dtype.name())
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let program = transform::for_device(program, &self.native).map_err(|error| error.to_string())?;
        let results = self.results(&program, args).map_err(|error| error.to_string())?;
        let tensors = results.iter().map(|(ty, bytes)| Tensor::from_bytes(ty, bytes));
        tensors.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }
}

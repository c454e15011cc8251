//! The cases on a device of a plugin, through the traits that it implements.

use crate::export::{Bound, Device, Error, Options, Plugin};
use crate::program::{DType, NativeOps, Program, Role, TensorType, lower};
use crate::reference::Tensor;

use super::{Report, Runner, check};

/// Runs all cases on the device of that index: a plugin's own conformance test. What the device does not name
/// in [`Device::ops`] is lowered first, as the host does; cases with element types that it does not list are
/// skipped.
///
/// # Errors
/// The plugin cannot find or open the device.
pub fn check_device<P: Plugin>(index: u32) -> Result<Report, Error> {
    let found = P::probe()?;
    let described = found.get(index as usize).ok_or_else(|| {
        Error::unavailable(format!("there is no device {index}; {} were found", found.len()))
    })?;
    Ok(check_open(P::open(index, &Options::default())?, &described.dtypes))
}

/// As [`check_device`] for a device that is open, with options of the test's own, and for these element types.
pub fn check_open<D: Device>(device: D, dtypes: &[DType]) -> Report {
    let native = NativeOps::of(&device.ops());
    check(&mut OnDevice { device, native, dtypes: dtypes.to_vec() })
}

struct OnDevice<D> {
    device: D,
    native: NativeOps,
    dtypes: Vec<DType>,
}

impl<D: Device> Runner for OnDevice<D> {
    fn supports(&self, dtype: DType) -> bool {
        self.dtypes.contains(&dtype)
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let program = lower(program, &|node| self.native.has(node)).map_err(|error| error.to_string())?;
        run_tensors(&mut self.device, &program, args)
    }
}

/// Runs a program once on a device and reads the bytes of its outputs and then of its states, for tests of a
/// device. The program has only ops that the device has; there is a tensor for every argument, in order.
///
/// # Errors
/// Whatever call of the device failed.
pub fn run_bytes<D: Device>(
    device: &mut D,
    program: &Program,
    args: &[Tensor],
) -> Result<Vec<Vec<u8>>, Error> {
    let mut compiled = device.compile(program.clone())?;
    let mut arguments = Vec::with_capacity(args.len());
    for tensor in args {
        arguments.push(buffer(device, tensor.ty(), &tensor.to_bytes())?);
    }
    let mut outputs = Vec::new();
    for output in program.outputs() {
        let ty = program.ty(output.value);
        // Whatever the device does not write shows.
        outputs.push(buffer(device, ty, &vec![0x5a; ty.bytes()])?);
    }
    let roles = program.args().iter().map(|arg| arg.role);
    let mut bound: Vec<Bound<'_, D::Buffer>> = arguments
        .iter_mut()
        .zip(roles)
        .map(|(buffer, role)| match role {
            Role::State => Bound::Mut(buffer),
            Role::Input | Role::Param => Bound::Shared(buffer),
        })
        .collect();
    device.run(&mut compiled, &mut bound, &mut outputs.iter_mut().collect::<Vec<_>>())?;
    device.synchronize()?;
    let states = arguments.iter().zip(program.args()).filter(|(_, arg)| arg.role == Role::State);
    let buffers = outputs.iter().chain(states.map(|(buffer, _)| buffer));
    buffers.zip(result_types(program)).map(|(buffer, ty)| download(device, buffer, ty)).collect()
}

/// As [`run_bytes`], as tensors.
///
/// # Errors
/// Why a call of the device failed, or which result is none of its type.
pub fn run_tensors<D: Device>(
    device: &mut D,
    program: &Program,
    args: &[Tensor],
) -> Result<Vec<Tensor>, String> {
    let results = run_bytes(device, program, args).map_err(|error| error.to_string())?;
    let tensors = result_types(program).zip(results).map(|(ty, bytes)| Tensor::from_bytes(ty, &bytes));
    tensors.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The types of outputs and then of states.
fn result_types(program: &Program) -> impl Iterator<Item = &TensorType> {
    let outputs = program.outputs().iter().map(|output| output.value);
    let states = program.args().iter().filter(|arg| arg.role == Role::State).map(|arg| arg.value);
    outputs.chain(states).map(|value| program.ty(value))
}

fn buffer<D: Device>(device: &mut D, ty: &TensorType, bytes: &[u8]) -> Result<D::Buffer, Error> {
    let mut buffer = device.allocate(ty)?;
    device.upload(&mut buffer, 0, bytes)?;
    Ok(buffer)
}

fn download<D: Device>(device: &mut D, buffer: &D::Buffer, ty: &TensorType) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; ty.bytes()];
    device.download(buffer, 0, &mut bytes)?;
    Ok(bytes)
}

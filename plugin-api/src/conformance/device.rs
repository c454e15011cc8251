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
    let device = P::open(index, &Options::default())?;
    let native = NativeOps::of(&device.ops());
    Ok(check(&mut OnDevice { device, native, dtypes: described.dtypes.clone() }))
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
        let results = self.results(&program, args).map_err(|error| error.to_string())?;
        let tensors = results.iter().map(|(ty, bytes)| Tensor::from_bytes(ty, bytes));
        tensors.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }
}

impl<D: Device> OnDevice<D> {
    /// Outputs and then states, after one run.
    fn results(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<(TensorType, Vec<u8>)>, Error> {
        let mut compiled = self.device.compile(program.clone())?;
        let mut arguments = Vec::with_capacity(args.len());
        for tensor in args {
            arguments.push(self.buffer(tensor.ty(), &tensor.to_bytes())?);
        }
        let mut outputs = Vec::new();
        for output in program.outputs() {
            let ty = program.ty(output.value);
            // Whatever the device does not write shows.
            outputs.push(self.buffer(ty, &vec![0x5a; ty.bytes()])?);
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
        self.device.run(&mut compiled, &mut bound, &mut outputs.iter_mut().collect::<Vec<_>>())?;
        self.device.synchronize()?;
        let states = arguments.iter().zip(program.args()).filter(|(_, arg)| arg.role == Role::State);
        let states = states.map(|(buffer, arg)| (buffer, arg.value));
        let outputs = outputs.iter().zip(program.outputs().iter().map(|output| output.value));
        outputs.chain(states).map(|(buffer, value)| self.download(buffer, program.ty(value))).collect()
    }

    fn buffer(&mut self, ty: &TensorType, bytes: &[u8]) -> Result<D::Buffer, Error> {
        let mut buffer = self.device.allocate(ty)?;
        self.device.upload(&mut buffer, 0, bytes)?;
        Ok(buffer)
    }

    fn download(&mut self, buffer: &D::Buffer, ty: &TensorType) -> Result<(TensorType, Vec<u8>), Error> {
        let mut bytes = vec![0; ty.bytes()];
        self.device.download(buffer, 0, &mut bytes)?;
        Ok((ty.clone(), bytes))
    }
}

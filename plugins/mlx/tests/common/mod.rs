//! Runs programs on the plugin's device through the safe traits.
#![allow(dead_code)] // each test binary uses its part

use finetune_mlx::{Buffer, Mlx, MlxDevice};
use finetune_plugin_api::export::{Bound, Device, Error, Options, Plugin};
use finetune_plugin_api::program::{Program, Role};
use finetune_plugin_api::reference::Tensor;

pub fn open() -> MlxDevice {
    Mlx::open(0, &Options::default()).expect("where there is no GPU there is the processor")
}

pub fn buffer(device: &mut MlxDevice, tensor: &Tensor) -> Result<Buffer, Error> {
    let mut buffer = device.allocate(tensor.ty())?;
    device.upload(&mut buffer, 0, &tensor.to_bytes())?;
    Ok(buffer)
}

/// Runs a program once; returns the bytes of outputs and then of states.
pub fn run_bytes(device: &mut MlxDevice, program: &Program, args: &[Tensor]) -> Result<Vec<Vec<u8>>, Error> {
    let mut compiled = device.compile(program.clone())?;
    let mut arguments: Vec<Buffer> = args.iter().map(|arg| buffer(device, arg)).collect::<Result<_, _>>()?;
    let mut outputs: Vec<Buffer> = Vec::new();
    for output in program.outputs() {
        let ty = program.ty(output.value);
        let mut buffer = device.allocate(ty)?;
        // Whatever the device does not write shows.
        device.upload(&mut buffer, 0, &vec![0x5a; ty.bytes()])?;
        outputs.push(buffer);
    }
    let mut bound: Vec<Bound<'_, Buffer>> = arguments
        .iter_mut()
        .zip(program.args())
        .map(|(buffer, arg)| match arg.role {
            Role::State => Bound::Mut(buffer),
            _ => Bound::Shared(buffer),
        })
        .collect();
    let mut bound_outputs: Vec<&mut Buffer> = outputs.iter_mut().collect();
    device.run(&mut compiled, &mut bound, &mut bound_outputs)?;
    let states = arguments.iter().zip(program.args()).filter(|(_, arg)| arg.role == Role::State);
    let states = states.map(|(buffer, arg)| (buffer, program.ty(arg.value)));
    let all =
        outputs.iter().zip(program.outputs().iter().map(|output| program.ty(output.value))).chain(states);
    let mut results = Vec::new();
    for (buffer, ty) in all {
        let mut bytes = vec![0; ty.bytes()];
        device.download(buffer, 0, &mut bytes)?;
        results.push(bytes);
    }
    Ok(results)
}

/// As [`run_bytes`], as tensors.
pub fn run(device: &mut MlxDevice, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let results = run_bytes(device, program, args).map_err(|error| error.to_string())?;
    let outputs = program.outputs().iter().map(|output| output.value);
    let states = program.args().iter().filter(|arg| arg.role == Role::State).map(|arg| arg.value);
    let types = outputs.chain(states).map(|value| program.ty(value));
    types
        .zip(results)
        .map(|(ty, bytes)| Tensor::from_bytes(ty, &bytes).map_err(|error| error.to_string()))
        .collect()
}

//! `finetune-grown-host LIBRARY...`: meets each plugin as a host of the grown interface does, and prints a JSON object a
//! line of what it saw. A plugin that does not load ends it with the reason.

use std::error::Error;
use std::path::Path;

use abi_stable::library::lib_header_from_path;
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RStr};
use finetune_plugin_api::abi::growth::{self, Clock};
use finetune_plugin_api::abi::{API_VERSION, AbiError, DeviceBox, PluginModule_Ref};
use finetune_plugin_api::program::{Attrs, Builder, DType, NativeOps, Op, Program, TensorType, lower};
use serde_json::json;

const X: [f32; 4] = [-3.0, -0.5, 1.0, 8.0];

fn main() -> Result<(), Box<dyn Error>> {
    for library in std::env::args().skip(1) {
        println!("{}", meet(Path::new(&library))?);
    }
    Ok(())
}

fn meet(library: &Path) -> Result<serde_json::Value, Box<dyn Error>> {
    let header = lib_header_from_path(library)?;
    let module = header.init_root_module::<PluginModule_Ref>()?;
    let mut device = ok(module.open()(0, "{}".into()))?;
    let names = ok(device.ops())?;
    let native = NativeOps::of(&names.iter().map(|name| name.as_str()).collect::<Vec<_>>());
    let program = lower(&program()?, &|node| native.has(node))?;
    let [y, sum] = run(&mut device, &program)?;
    let clock = match ok(device.extension(growth::NAME.into()))?.into_option() {
        Some(extension) => {
            let clock: Clock = extension.into_value()?;
            Some(json!({ "frequency": clock.frequency, "double": (clock.double)(21) }))
        }
        None => None,
    };
    Ok(json!({
        "host": API_VERSION,
        "plugin": header.version_strings().version.as_str(),
        "handed_over": program.nodes().iter().map(|node| node.op.name()).collect::<Vec<_>>(),
        "y": y,
        "sum": sum,
        "clock": clock,
    }))
}

/// The composite op that is new, then one that is old; the result is added to state.
fn program() -> Result<Program, Box<dyn Error>> {
    let mut b = Builder::new();
    let x = b.input("x", TensorType::new(DType::F32, &[4]));
    let sum = b.state("sum", TensorType::new(DType::F32, &[4]));
    let capped = b.apply(Op::Softcap, &[x], Attrs::none().float("cap", 2.0));
    let y = b.apply(Op::Activation, &[capped], Attrs::none().word("kind", "silu"));
    let total = b.apply(Op::Add, &[sum, y], Attrs::none());
    b.update(sum, total);
    b.output("y", y);
    Ok(b.finish()?)
}

/// Runs it twice; gives the output and the state.
fn run(device: &mut DeviceBox, program: &Program) -> Result<[Vec<f32>; 2], Box<dyn Error>> {
    let text = program.to_string();
    let compiled = ok(device.compile(RStr::from_str(&text), "{}".into()))?;
    let [x, sum, y] = [(); 3].map(|()| device.allocate("f32".into(), RSlice::from_slice(&[4])));
    let (x, sum, y) = (ok(x)?, ok(sum)?, ok(y)?);
    let bytes: Vec<u8> = X.iter().flat_map(|value| value.to_le_bytes()).collect();
    ok(device.upload(x, 0, RSlice::from_slice(&bytes)))?;
    ok(device.upload(sum, 0, RSlice::from_slice(&[0; 16])))?;
    for _ in 0..2 {
        ok(device.run(compiled.id, RSlice::from_slice(&[x, sum]), RSlice::from_slice(&[y])))?;
    }
    ok(device.synchronize())?;
    Ok([download(device, y)?, download(device, sum)?])
}

fn download(device: &mut DeviceBox, buffer: u64) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut bytes = [0; 16];
    ok(device.download(buffer, 0, RSliceMut::from_mut_slice(&mut bytes)))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn ok<T>(result: RResult<T, AbiError>) -> Result<T, Box<dyn Error>> {
    result.into_result().map_err(|error| error.message.to_string().into())
}

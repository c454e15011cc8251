//! The conformance suite on real libraries, the whole way that the host goes: found in a folder, probed, loaded,
//! opened; programs lowered to the ops that the device names, compiled from their text, and run over the ABI.

use std::path::Path;

use finetune_host::plugins::{Buffer, Catalog, Choice, Device, DeviceError, Folders, Row, Status};
use finetune_host::transform;
use finetune_plugin_api::conformance::{self, Report, Runner};
use finetune_plugin_api::program::{DType, NativeOps, Program, Role, TensorType, ValueId};
use finetune_plugin_api::reference::Tensor;
use finetune_tests::{example_plugin, plugins};

/// A device as the host has it.
struct Loaded {
    device: Device,
    native: NativeOps,
    dtypes: Vec<String>,
}

impl Loaded {
    fn open(choice: &Choice) -> Loaded {
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

fn catalog(folder: &Path) -> Catalog {
    Catalog::build(&Folders::given(&[folder.into()])).expect("the folder can be read")
}

/// Runs the suite on every device of a plugin; says which.
fn check_devices(catalog: &Catalog, row: &Row) -> Vec<(String, Report)> {
    let name = row.name.as_deref().expect("a ready plugin has a name");
    let devices = row.devices.iter().map(|row| format!("{name}:{}", row.device.index));
    devices
        .map(|backend| {
            let choice = catalog.choose(&backend).expect("a listed device can be chosen");
            let report = conformance::check(&mut Loaded::open(&choice));
            println!("{backend}: {report}");
            (backend, report)
        })
        .collect()
}

/// What a plugin's own tests see is its code; what users get is the library, behind loader, text form, handles
/// and uploads.
#[test]
fn every_device_that_is_found_conforms() {
    let catalog = catalog(&plugins());
    let ready = catalog.plugins.iter().filter(|row| row.status == Status::Ready);
    let reports: Vec<_> = ready.flat_map(|row| check_devices(&catalog, row)).collect();
    for processor in ["cpu:0", "candle-cpu:0"] {
        let found = reports.iter().any(|(backend, _)| backend == processor);
        assert!(found, "the processor is always there: {processor}");
    }
    for (backend, report) in reports {
        assert!(report.is_passed(), "{backend}: {report}");
    }
}

/// Two things at once: the plugin that authors begin from is right, and so are the decompositions of all
/// composite ops, of which it has none.
#[test]
fn the_example_plugin_conforms_with_core_ops_alone() {
    let library = example_plugin();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&library, folder.path().join(library.file_name().unwrap())).unwrap();
    let catalog = catalog(folder.path());
    let reports = check_devices(&catalog, &catalog.plugins[0]);
    let [(_, report)] = reports.as_slice() else { panic!("one device, not {}", reports.len()) };
    assert!(report.is_passed(), "{report}");
    assert!(report.skipped.is_empty(), "it takes every element type: {:?}", report.skipped);
}

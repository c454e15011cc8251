//! The conformance suite on real libraries.

use std::path::Path;

use finetune_host::plugins::{Catalog, Folders, PROBE_TIMEOUT, Prober, Row, Status};
use finetune_plugin_api::conformance::{self, Report};
use finetune_tests::loaded::Loaded;
use finetune_tests::{candle, example_plugin, plugins};

fn catalog(folder: &Path) -> Catalog {
    let prober = Prober::with(finetune_tests::binary(), None, PROBE_TIMEOUT);
    Catalog::build(&Folders::given(&[folder.into()]), &prober).expect("the folder can be read")
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
    for device in ["cpu:0".to_owned(), format!("{}:0", candle())] {
        let found = reports.iter().any(|(backend, _)| *backend == device);
        assert!(found, "it is always there: {device}");
    }
    for (backend, report) in reports {
        assert!(report.is_passed(), "{backend}: {report}");
    }
}

/// Where MLX is set up, it is among them.
#[test]
fn mlx_plugin_is_found() {
    let catalog = catalog(&plugins());
    let row = catalog.plugins.iter().find(|row| row.name.as_deref() == Some("mlx")).expect("a row");
    assert_eq!(row.status, Status::Ready, "{:?}", row.reason);
    assert!(row.devices[0].device.details.contains_key("mlx"), "its version is told");
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

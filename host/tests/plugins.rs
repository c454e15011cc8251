//! The whole way of a plugin through the host, with a real dynamic library: `examples/tiny.rs` of plugin-api.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use finetune_host::plugins::{Catalog, Device, Folders, PluginError, Prober, SharedBytes, Status, manifest};
use finetune_plugin_api::abi::ErrorKind;
use finetune_plugin_api::program::{Builder, DType, Op, Program, TensorType};

/// Builds the example and says where its library is.
fn tiny() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--package", "finetune-plugin-api", "--example", "tiny"])
            .args(["--message-format", "json"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
        let artifacts = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut tiny = artifacts.filter(|message| message["target"]["name"] == "tiny");
        let artifact = tiny.next().expect("an artifact named tiny");
        let files = artifact["filenames"].as_array().expect("file names").clone();
        let files = files.iter().filter_map(|file| file.as_str()).map(PathBuf::from);
        let is_library = |file: &PathBuf| {
            file.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION)
        };
        let mut libraries = files.filter(is_library);
        libraries.next().expect("a dynamic library")
    })
}

/// The real program asks; nothing is kept but in `cache`.
fn prober(cache: Option<&Path>) -> Prober {
    let program = env!("CARGO_BIN_EXE_finetune").into();
    Prober::with(program, cache.map(Path::to_path_buf), Duration::from_secs(10))
}

fn name(stem: &str) -> String {
    format!("{stem}.{}", std::env::consts::DLL_EXTENSION)
}

fn catalog(folder: &Path) -> Catalog {
    Catalog::build(&Folders::given(&[folder.into()]), &prober(None)).unwrap()
}

fn reasons(catalog: &Catalog) -> Vec<String> {
    catalog.plugins.iter().map(|row| row.reason.clone().unwrap_or_default()).collect()
}

/// x [2,3] times w [3,2], added to a state [2,2].
fn program() -> Program {
    let mut b = Builder::new();
    let x = b.input("x", TensorType::new(DType::F32, &[2, 3]));
    let w = b.param("w", TensorType::new(DType::F32, &[3, 2]));
    let sum = b.state("sum", TensorType::new(DType::F32, &[2, 2]));
    let product = b.apply(Op::Matmul, &[x, w], Default::default());
    let total = b.apply(Op::Add, &[sum, product], Default::default());
    b.update(sum, total);
    b.output("product", product);
    b.finish().unwrap()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

#[test]
fn a_plugin_is_found_read_asked_opened_and_runs_programs() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny(), folder.path().join(name("tiny"))).unwrap();
    let catalog = catalog(folder.path());
    let row = &catalog.plugins[0];
    assert_eq!((row.name.as_deref(), row.status, &row.reason), (Some("tiny"), Status::Ready, &None));

    let json: serde_json::Value = serde_json::to_value(&catalog).unwrap();
    let row = json["plugins"][0].as_object().unwrap();
    let keys: Vec<&str> = row.keys().map(String::as_str).collect();
    assert_eq!(keys, ["path", "name", "version", "api", "status", "reason", "devices"]);
    let device = row["devices"][0].as_object().unwrap();
    let keys: Vec<&str> = device.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["index", "name", "kind", "memory_total", "memory_available", "unified", "dtypes", "score", "rank"]
    );
    assert_eq!((&device["rank"], &device["score"]), (&1.into(), &serde_json::Value::Null));

    for backend in ["auto", "tiny", "tiny:0"] {
        let device = catalog.choose(backend).unwrap().open(&Default::default()).unwrap();
        run_on(&device);
    }
    for (backend, part) in [
        ("cuda", "there are: tiny"),
        ("tiny:1", "there are: tiny:0 (reference interpreter)"),
        ("tiny:", "there are: tiny:0"),
        ("auto:0", "needs the name of a back end"),
    ] {
        let error = catalog.choose(backend).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn run_on(device: &Device) {
    let program = program();
    let ty = |name: &str| program.ty(program.arg(name).unwrap().value).clone();
    let compiled = device.compile(&program).unwrap();
    let x = device.upload_new(&ty("x"), &bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
    let lent: SharedBytes = Arc::new(bytes(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
    let w = device.adopt(&ty("w"), lent).unwrap();
    let sum = device.upload_new(&ty("sum"), &bytes(&[0.5; 4])).unwrap();
    let product = device.allocate(&ty("sum")).unwrap();
    for _ in 0..2 {
        device.run(&compiled, &[&x, &w, &sum], &[&product]).unwrap();
    }
    device.synchronize().unwrap();
    assert_eq!(floats(&device.download_all(&product).unwrap()), [4.0, 5.0, 10.0, 11.0]);
    assert_eq!(floats(&device.download_all(&sum).unwrap()), [8.5, 10.5, 20.5, 22.5]);

    let error = device.run(&compiled, &[&x, &w], &[&product]).unwrap_err();
    assert_eq!((error.kind, error.state_untouched), (ErrorKind::InvalidArgument, true));
    let error = device.upload(&w, 0, &[0]).unwrap_err();
    assert!(error.to_string().contains("host lent"), "{error}");
    let used = device.memory().unwrap().used;
    drop(x);
    assert_eq!(device.memory().unwrap().used, used - 24);
    assert_eq!(device.ops().unwrap().names().count(), 0);
}

/// Two plugins in one process share the type of their root module and nothing else; buffers do not mix.
#[test]
fn buffers_of_another_device_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny(), folder.path().join(name("tiny"))).unwrap();
    let choice = catalog(folder.path()).choose("tiny").unwrap();
    let (one, other) = (choice.open(&Default::default()).unwrap(), choice.open(&Default::default()).unwrap());
    let buffer = one.allocate(&TensorType::scalar(DType::F32)).unwrap();
    let error = other.download_all(&buffer).unwrap_err();
    assert!(error.message.contains("of another device"), "{error}");
}

#[test]
fn of_two_plugins_of_one_name_the_first_is_used() {
    let folder = tempfile::tempdir().unwrap();
    for stem in ["a", "b"] {
        fs::copy(tiny(), folder.path().join(name(stem))).unwrap();
    }
    let catalog = catalog(folder.path());
    assert_eq!(catalog.plugins[0].status, Status::Ready);
    assert_eq!(catalog.plugins[1].status, Status::Refused);
    assert!(reasons(&catalog)[1].contains(&name("a")), "{:?}", reasons(&catalog));
    assert_eq!(catalog.choose("tiny").unwrap().path, catalog.plugins[0].path);
}

/// What the manifest promises is checked before any code of the file runs.
#[test]
fn a_plugin_for_another_version_of_the_interface_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let original = fs::read(tiny()).unwrap();
    for (stem, api, part) in [
        ("a", "2.0.0", "rebuild the plugin against 1.x"),
        ("b", "1.9.0", "update finetune"),
        ("c", "1.0.1", "contradicts itself"),
        ("d", "1_0_0", "which is none"),
    ] {
        let library = replace(&original, b"\"api\":\"1.0.0\"", format!("\"api\":\"{api}\"").as_bytes());
        fs::write(folder.path().join(name(stem)), library).unwrap();
        let catalog = catalog(folder.path());
        let row = catalog.plugins.last().unwrap();
        assert_eq!((row.status, row.api.as_deref()), (Status::Refused, Some(api)));
        assert!(row.reason.as_ref().unwrap().contains(part), "{row:?}");
    }
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the text is in the file");
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[cfg(unix)]
#[test]
fn what_is_no_library_is_a_row_with_its_own_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |stem: &str| folder.path().join(name(stem));
    fs::write(at("1-empty"), "").unwrap();
    fs::write(at("2-text"), "#!/bin/sh\n".repeat(20)).unwrap();
    fs::write(at("3-short"), "\x7fELF").unwrap();
    fs::create_dir(at("4-folder")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", at("5-dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(at("6-fifo")).status().unwrap().success());
    let program = std::env::current_exe().unwrap();
    std::os::unix::fs::symlink(program, at("7-program")).unwrap();
    let library = fs::read(tiny()).unwrap();
    fs::write(at("8-cut"), &library[..library.len() / 2]).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("9-device")).unwrap();
    let catalog = catalog(folder.path());
    let parts = [
        "is empty",
        "is no dynamic library",
        "is no dynamic library",
        "is a folder",
        "/nowhere/at/all",
        "special file",
        "no symbol finetune_plugin_manifest",
        "cut off",
        "special file",
    ];
    let reasons = reasons(&catalog);
    assert_eq!(reasons.len(), parts.len());
    for (reason, part) in reasons.iter().zip(parts) {
        assert!(reason.contains(part), "{reason:?} does not say {part:?}");
    }
    let error = catalog.choose("auto").unwrap_err();
    assert!(matches!(error, PluginError::NothingUsable(_)), "{error}");
    assert!(error.to_string().contains("1-empty"), "{error}");
}

#[test]
fn an_empty_folder_is_a_list_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    assert_eq!(serde_json::to_string(&catalog).unwrap(), "{\"plugins\":[]}");
    let advice = catalog.nothing_usable().to_string();
    let folder = folder.path().display().to_string();
    assert!(advice.contains("--plugins DIR") && advice.contains(&folder), "{advice}");
}

/// The reader of a stranger's file must neither panic nor take forever, whatever is in it.
#[test]
fn broken_libraries_are_errors_however_they_are_broken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name("broken"));
    let library = fs::read(tiny()).unwrap();
    assert!(manifest::read(tiny()).is_ok());
    let lengths = (0..library.len()).step_by((library.len() / 150).max(1)).chain(0..200);
    for length in lengths {
        fs::write(&file, &library[..length]).unwrap();
        assert!(manifest::read(&file).is_err(), "cut to {length} bytes");
    }
    // The headers and tables are where a wrong byte leads the reader astray.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for round in 0..400 {
        let mut library = library.clone();
        let reach = if round % 2 == 0 { 4096 } else { library.len() };
        for _ in 0..8 {
            let at = if round % 4 == 2 { library.len() - 1 - next(4096) } else { next(reach) };
            library[at] = next(256) as u8;
        }
        fs::write(&file, &library).unwrap();
        if let Ok(read) = manifest::read(&file) {
            assert!(read.name.len() <= 64);
        }
    }
}

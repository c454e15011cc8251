//! Misbehaving plugins, made from tests/misbehaving: `place("folder", "name", "step 3: segv")`.
//!
//! They are built once a test program; each copy has its own name and behaviour written into its bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Map, Value};

const MARK: &[u8] = b"finetune-misbehaving:";
const NAME: &[u8] = b"{\"name\":\"misbehaving-name-to-be-written-over\"";

/// Puts a plugin into a folder that misbehaves as `behaviour` says; see tests/misbehaving/README.md.
pub fn place(folder: &Path, name: &str, behaviour: &str) -> PathBuf {
    place_with(folder, name, behaviour, |_| {})
}

/// The same, with another manifest.
pub fn place_with(
    folder: &Path,
    name: &str,
    behaviour: &str,
    change: impl FnOnce(&mut Map<String, Value>),
) -> PathBuf {
    let mut bytes = std::fs::read(library()).expect("the library was built");
    write_manifest(&mut bytes, name, change);
    write_behaviour(&mut bytes, behaviour);
    write(folder, name, &bytes)
}

/// A plugin whose root module has another layout than the host's, under the name `layout`.
pub fn place_other_layout(folder: &Path) -> PathBuf {
    write(folder, "layout", &std::fs::read(other_layout()).expect("the library was built"))
}

/// A plugin of C, made without the SDK: what the definitions mean stands in tests/misbehaving/c/plugin.c.
pub fn place_c(folder: &Path, name: &str, definitions: &[(&str, &str)]) -> PathBuf {
    let path = folder.join(file_name(name));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&path).arg(source("c/plugin.c"));
    cc.args(definitions.iter().map(|(key, value)| format!("-D{key}={value}")));
    let output = cc.output().expect("there is a C compiler, cc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// The source of the plugin of C.
pub fn c_source() -> PathBuf {
    source("c/plugin.c")
}

/// A manifest as a C string literal, with that name and that version of the interface.
pub fn c_manifest(name: &str, api: &str) -> String {
    let manifest = serde_json::json!({
        "name": name, "version": "0.1.0", "api": api, "vendor": "a stranger", "license": "MIT",
        "description": "made of C, for tests",
    });
    format!("\"{}\"", manifest.to_string().replace('"', "\\\""))
}

/// What a plugin's file is called on this system.
pub fn file_name(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn write_manifest(bytes: &mut [u8], name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let start = find(bytes, NAME);
    let length = bytes[start..].iter().position(|byte| *byte == 0).expect("it ends with a NUL");
    let mut manifest: Map<String, Value> =
        serde_json::from_slice(&bytes[start..start + length]).expect("the manifest is JSON");
    manifest.insert("name".into(), name.into());
    manifest.insert("description".into(), "misbehaves".into());
    change(&mut manifest);
    let text = serde_json::to_string(&manifest).expect("JSON");
    assert!(text.len() <= length, "the manifest has become too long: {text}");
    bytes[start..start + length].fill(b' ');
    bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
}

fn write_behaviour(bytes: &mut [u8], behaviour: &str) {
    let start = find(bytes, MARK) + MARK.len();
    let room = bytes[start..].iter().take_while(|byte| **byte == 0).count();
    assert!(behaviour.len() < room.min(480), "there is no room for {behaviour:?}");
    bytes[start..start + behaviour.len()].copy_from_slice(behaviour.as_bytes());
}

/// Where a text stands.
fn find(bytes: &[u8], text: &[u8]) -> usize {
    let found = bytes.windows(text.len()).position(|window| window == text);
    found.unwrap_or_else(|| panic!("the library has no {:?}", String::from_utf8_lossy(text)))
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(file_name(name));
    std::fs::write(&path, bytes).expect("the folder can be written to");
    // Apple's processors run no file whose signature does not fit its bytes.
    if cfg!(target_os = "macos") {
        let status = Command::new("codesign").args(["--force", "--sign", "-"]).arg(&path).status();
        assert!(status.expect("codesign is part of the system").success());
    }
    path
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build("finetune_misbehaving", &["--lib"]))
}

fn other_layout() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| build("layout", &["--example", "layout"]))
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("misbehaving").join(name)
}

/// Builds a target of tests/misbehaving and says where its library is.
fn build(target: &str, arguments: &[&str]) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--package", "finetune-misbehaving", "--message-format", "json"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut artifacts = messages.filter(|message| message["target"]["name"] == target);
    let artifact = artifacts.next().unwrap_or_else(|| panic!("cargo built no {target}"));
    let files = artifact["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut libraries = files.filter(|file| file.ends_with(std::env::consts::DLL_SUFFIX)).map(PathBuf::from);
    libraries.next().expect("a dynamic library")
}

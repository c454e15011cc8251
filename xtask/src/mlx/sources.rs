//! What the set-ups for Linux and for the check of the macOS code have in common: mlx-sys, wheels, bindgen.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::FEATURE;
use crate::process;
use crate::workspace::{Workspace, items};

const BINDGEN: &str = "0.72.1";
/// The same that mlx-sys has bindgen write for.
const BINDINGS_FOR: &str = "1.73.0";
/// Where the library of clang lies in its wheel.
const LIBCLANG: &str = "libclang-18.1.1.data/platlib/clang/native";

/// Where something made by a recipe is kept. All that it depends on is in its name: cargo does not notice when a
/// library changes in its place.
pub fn place(workspace: &Workspace, name: &str, target: &str, recipe: &impl Hash) -> Result<PathBuf> {
    let (version, _) = mlx_sys(workspace, target)?;
    let mut hash = DefaultHasher::new();
    (recipe, BINDGEN, BINDINGS_FOR, LIBCLANG).hash(&mut hash);
    Ok(workspace.target.join("mlx").join(format!("{name}-{version}-{:016x}", hash.finish())))
}

/// Has `place` made in a folder aside, of which `steps` returns the part to keep: what is there is whole.
pub fn make(workspace: &Workspace, place: &Path, steps: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<()> {
    let work = workspace.target.join("mlx").join(format!("making-{}", std::process::id()));
    create(&work)?;
    let made = steps(&work).and_then(|made| {
        // Another process may have been faster; what it made is the same.
        if place.exists() {
            return Ok(());
        }
        place.parent().map_or(Ok(()), create)?;
        fs::rename(&made, place)
            .with_context(|| format!("could not move {} to {}", made.display(), place.display()))
    });
    // What nothing needs any more; if it stays, only space is lost.
    if let Err(error) = fs::remove_dir_all(&work) {
        eprintln!("warning: could not remove {}: {error}", work.display());
    }
    made
}

/// Version and folder of the package whose build script is replaced.
pub fn mlx_sys(workspace: &Workspace, target: &str) -> Result<(String, PathBuf)> {
    let mut metadata = workspace.cargo();
    metadata.args(["metadata", "--format-version=1", "--filter-platform", target, "--features", FEATURE]);
    let metadata: Value =
        serde_json::from_str(&process::output(&mut metadata)?).context("`cargo metadata` wrote no JSON")?;
    let package = items(&metadata["packages"]).find(|package| package["name"] == "mlx-sys");
    let package = package.context("the workspace has no package mlx-sys")?;
    let text = |key: &str| package[key].as_str().with_context(|| format!("cargo gave mlx-sys no {key}"));
    let folder = Path::new(text("manifest_path")?).parent().context("mlx-sys lies in no folder")?;
    Ok((text("version")?.to_owned(), folder.to_owned()))
}

/// Fetches wheels with pip and unpacks them all into one folder.
pub fn wheels(workspace: &Workspace, requirements: &str, work: &Path) -> Result<PathBuf> {
    let list = work.join("requirements.txt");
    write(&list, requirements)?;
    let cache = workspace.target.join("mlx/wheels");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(&list);
    process::run(pip.arg("--find-links").arg(&cache).arg("--dest").arg(&cache)).context(
        "the wheels of MLX could not be fetched with pip; they need x86-64 and glibc 2.35 or newer",
    )?;
    let unpacked = work.join("wheels");
    for requirement in requirements.lines().filter_map(|line| line.split_once("==")) {
        let (name, version) = (requirement.0.replace('-', "_"), requirement.1);
        let version = version.split_whitespace().next().unwrap_or_default();
        let start = format!("{name}-{version}-");
        let wheel = files(&cache, |file| file.starts_with(&start))?.pop();
        let wheel = wheel.with_context(|| format!("pip left no {start}*.whl in {}", cache.display()))?;
        let mut unpack = Command::new("python3");
        process::run(unpack.args(["-m", "zipfile", "--extract"]).args([&wheel, &unpacked]))?;
    }
    Ok(unpacked)
}

/// Runs bindgen as mlx-sys's build script does, over all headers of the C interface; `arguments` are for
/// clang, whose library is among the unpacked `wheels`.
pub fn bindings(
    workspace: &Workspace,
    headers: &Path,
    wheels: &Path,
    arguments: &[String],
    work: &Path,
) -> Result<String> {
    let all = work.join("all.h");
    let names = files(&headers.join("mlx/c"), |name| name.ends_with(".h"))?;
    let lines = names.iter().map(|header| format!("#include \"{}\"\n", header.display()));
    write(&all, &lines.collect::<String>())?;
    let mut run = Command::new(bindgen(workspace)?);
    run.env("LIBCLANG_PATH", wheels.join(LIBCLANG)).arg(&all).args(["--rust-target", BINDINGS_FOR]);
    run.args(["--blocklist-function", "malloc", "--blocklist-function", "realloc"]);
    process::output(run.arg("--").args(arguments))
}

/// The program, compiled once into the build directory.
fn bindgen(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("mlx").join(format!("bindgen-{BINDGEN}"));
    let program = root.join("bin/bindgen");
    if !program.is_file() {
        let mut install = workspace.cargo();
        install.args(["install", "--quiet", "--locked", "--debug", "bindgen-cli", "--version", BINDGEN]);
        process::run(install.arg("--root").arg(&root))?;
    }
    Ok(program)
}

/// The files of a folder whose names are wanted, sorted.
pub fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))
}

pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

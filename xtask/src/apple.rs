//! Type-checks and lints the macOS code where there is no Mac, the candle plugin's Metal kernels with it.
//!
//! That takes Rust's standard library for macOS as compiled metadata. rustup has it where it can be reached; else
//! it is compiled here, once, from the source in Debian's package rust-src, into a folder that stands in for the
//! compiler's own. Nothing is linked, so no SDK is needed, and nothing is shown about what happens at run time.

mod debian;
mod shaders;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use crate::{mlx, process};

const TARGET: &str = "aarch64-apple-darwin";
const PACKAGES: [&str; 2] = ["finetune-plugin-api", "finetune-host"];
/// What the candle plugin is on a Mac.
pub const CANDLE_FEATURE: &str = "finetune-candle/metal";

pub fn check(workspace: &Workspace) -> Result<()> {
    shaders::check(workspace)?;
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--target", TARGET]);
    for package in PACKAGES.into_iter().chain(workspace.plugins.iter().map(|plugin| plugin.package.as_str()))
    {
        clippy.args(["--package", package]);
    }
    clippy.args(["--features", CANDLE_FEATURE]).args(mlx::check_arguments(workspace, TARGET)?);
    if !has_standard_library()? {
        let sysroot = sysroot(workspace).context(
            "the standard library for macOS could not be made here; where rustup can be reached, \
             `rustup target add aarch64-apple-darwin` gives it",
        )?;
        let sysroot = sysroot.to_str().context("the build directory's path is not UTF-8")?;
        // As configuration, not in the environment: a path there may hold no space. JSON's strings are TOML's.
        let flags = serde_json::to_string(&["--sysroot", sysroot])?;
        clippy.args(["--config", &format!("target.{TARGET}.rustflags={flags}")]);
        clippy.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    process::run(clippy.args(["--", "--deny", "warnings"]))
}

/// Whether the toolchain itself has it: on a Mac, or installed with rustup.
fn has_standard_library() -> Result<bool> {
    let folder =
        process::output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// The stand-in for the compiler's folder, kept in the build directory under the compiler's own version.
fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let compiler = process::output(Command::new("rustc").arg("-vV"))?;
    let field = |name: &str| {
        let found = compiler.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.with_context(|| format!("`rustc -vV` gave no {name}"))
    };
    let (release, commit, host) = (field("release")?, field("commit-hash")?, field("host")?);
    let apple = workspace.target.join("apple");
    let place = apple.join(format!("sysroot-{release}-{commit}"));
    if place.is_dir() {
        return Ok(place);
    }
    ensure!(
        release == debian::RUSTC,
        "the pinned source is rustc {}'s, this is rustc {release}; pin the package of that version in \
         xtask/src/apple/debian.rs",
        debian::RUSTC
    );
    eprintln!("Compiling the standard library for {TARGET}, once: some minutes.");
    let work = apple.join(format!("making-{}", std::process::id()));
    let made = make(workspace, &work, host).and_then(|made| {
        fs::rename(&made, &place)
            .with_context(|| format!("could not move {} to {}", made.display(), place.display()))
    });
    // Half a gigabyte that nothing needs any more; if it stays, only space is lost.
    if let Err(error) = fs::remove_dir_all(&work) {
        eprintln!("warning: could not remove {}: {error}", work.display());
    }
    made.map(|()| place)
}

fn make(workspace: &Workspace, work: &Path, host: &str) -> Result<PathBuf> {
    fs::create_dir_all(work).with_context(|| format!("could not create {}", work.display()))?;
    let libraries = compile(workspace, &debian::rust_source(work)?, work)?;
    let sysroot = work.join("sysroot");
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    for library in &libraries {
        let name = library.file_name().context("cargo named a library without a file name")?;
        fs::copy(library, folder.join(name))
            .with_context(|| format!("could not copy {}", library.display()))?;
    }
    let own = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let hosts = Path::new("lib/rustlib").join(host);
    link(&Path::new(own.trim()).join(&hosts), &sysroot.join(&hosts))?;
    Ok(sysroot)
}

/// The standard library as a by-product of an empty crate; returns its rlibs.
fn compile(workspace: &Workspace, source: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    let krate = work.join("empty");
    fs::create_dir_all(krate.join("src")).with_context(|| format!("could not create {}", krate.display()))?;
    let manifest = "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    for (name, text) in [("Cargo.toml", manifest), ("src/lib.rs", "")] {
        let path = krate.join(name);
        fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    // Building std is not stable in cargo; the stable compiler does it when told to pose as its own bootstrap.
    let mut build = workspace.cargo();
    build
        .current_dir(&krate)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", source.join("library"));
    build.args(["build", "--release", "--target", TARGET]);
    build.arg("-Zbuild-std=std,panic_abort,panic_unwind,test,proc_macro");
    process::run(build.arg("--target-dir").arg(work.join("target")))?;
    let deps = work.join("target").join(TARGET).join("release/deps");
    let mut libraries = Vec::new();
    for entry in fs::read_dir(&deps).with_context(|| format!("could not list {}", deps.display()))? {
        let path = entry.with_context(|| format!("could not list {}", deps.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".rlib") && !name.starts_with("libempty-") {
            libraries.push(path);
        }
    }
    if libraries.is_empty() {
        bail!("cargo left no compiled standard library in {}", deps.display());
    }
    Ok(libraries)
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, at)
        .with_context(|| format!("could not link {} to {}", at.display(), to.display()))
}

#[cfg(not(unix))]
fn link(_to: &Path, _at: &Path) -> Result<()> {
    bail!("the standard library for macOS can be made on Linux only")
}

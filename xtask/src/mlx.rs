//! Sets up what the MLX plugin is built with.
//!
//! On macOS mlx-sys builds MLX from source, and all there is to do is to see that its tools are there. On Linux
//! its build script does not work; there MLX comes as the library of a Python wheel, the C interface is compiled
//! from the sources inside mlx-sys, and a cargo configuration says that this takes the build script's place.

mod apple;
mod linux;
mod sources;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

pub use apple::WHEELS as APPLE_WHEELS;
pub use sources::{make, wheels};

/// The package of the plugin, and the feature without which it is empty.
pub const PACKAGE: &str = "finetune-mlx";
pub const FEATURE: &str = "finetune-mlx/mlx";
/// Where mlx-sys puts the kernels for Metal.
const METAL_FOLDER: &str = "MLX_RS_METAL_PATH";

/// What the plugin needs where it is loaded.
pub struct Ready {
    /// Files that it finds in `lib` beside it.
    pub libraries: Vec<PathBuf>,
    /// Files that it finds beside it; they are there once it is built.
    pub beside: Vec<PathBuf>,
}

/// # Errors
/// Why the plugin cannot be built here.
pub fn set_up(workspace: &Workspace) -> Result<Ready> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        linux::set_up(workspace)
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        macos(workspace)
    } else {
        bail!("MLX is for macOS on Apple silicon and for Linux on x86-64")
    }
}

/// Whether there is a C++ compiler.
pub fn has_cxx() -> bool {
    require(linux::compiler().arg("--version"), "a C++ compiler").is_ok()
}

/// What cargo needs besides to check the macOS code, with the plugin, for `target`.
pub fn check_arguments(workspace: &Workspace, target: &str) -> Result<Vec<String>> {
    let mut arguments = vec!["--features".into(), FEATURE.into()];
    if !cfg!(target_os = "macos") {
        arguments.extend(apple::arguments(workspace, target)?);
    }
    Ok(arguments)
}

/// mlx-sys leaves MLX's kernels in a folder of its own choice in the user's home, and their place is compiled in;
/// MLX looks beside the plugin first. In the build directory they can be taken from there.
fn macos(workspace: &Workspace) -> Result<Ready> {
    require(Command::new("cmake").arg("--version"), "cmake (`brew install cmake`)")?;
    require(
        Command::new("xcrun").args(["--sdk", "macosx", "--find", "metal"]),
        "Xcode's Metal compiler (`xcodebuild -downloadComponent MetalToolchain`)",
    )?;
    let chosen = env::var_os(METAL_FOLDER).map(PathBuf::from);
    let folder = chosen.unwrap_or_else(|| workspace.target.join("mlx").join("metal"));
    let quoted = serde_json::to_string(folder.to_str().context("the build directory's path is not UTF-8")?)?;
    configure(workspace, &format!("[env]\n{METAL_FOLDER} = {quoted}\n"))?;
    Ok(Ready { libraries: Vec::new(), beside: vec![folder.join("mlx.metallib")] })
}

/// Writes the cargo configuration that `.cargo/config.toml` includes, unless it says so already.
fn configure(workspace: &Workspace, text: &str) -> Result<()> {
    let text = format!("# Written by `cargo xtask mlx`.\n{text}");
    let file = workspace.root.join(".cargo/mlx.toml");
    if fs::read_to_string(&file).is_ok_and(|present| present == text) {
        return Ok(());
    }
    // Whole at any time: every cargo in this checkout reads it.
    let aside = file.with_extension(format!("{}.new", std::process::id()));
    let written = fs::write(&aside, &text).and_then(|()| fs::rename(&aside, &file));
    written.with_context(|| format!("could not write {}", file.display()))
}

/// That a program is there and answers.
fn require(command: &mut Command, what: &str) -> Result<()> {
    let answer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if answer.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(anyhow::anyhow!("{what} is not installed")).context("MLX needs it to be built")
}

//! Sets up what the MLX plugin is built with.
//!
//! On macOS mlx-sys builds MLX from source, and all there is to do is to see that its tools are there. On Linux
//! its build script does not work; there MLX comes as the library of a Python wheel, the C interface is compiled
//! from the sources inside mlx-sys, and a cargo configuration says that this takes the build script's place.

mod apple;
mod linux;
mod sources;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The package of the plugin, and the feature without which it is empty.
pub const PACKAGE: &str = "finetune-mlx";
pub const FEATURE: &str = "finetune-mlx/mlx";

/// What a build with MLX needs beside the plugin.
pub struct Ready {
    /// Files that the plugin finds in `lib` beside it.
    pub libraries: Vec<PathBuf>,
}

/// # Errors
/// Why the plugin cannot be built here.
pub fn set_up(workspace: &Workspace) -> Result<Ready> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        linux::set_up(workspace)
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        macos()
    } else {
        bail!("MLX is for macOS on Apple silicon and for Linux on x86-64")
    }
}

/// What cargo needs besides to check the macOS code, with the plugin, for `target`.
pub fn check_arguments(workspace: &Workspace, target: &str) -> Result<Vec<String>> {
    let mut arguments = vec!["--features".into(), FEATURE.into()];
    if !cfg!(target_os = "macos") {
        arguments.extend(apple::arguments(workspace, target)?);
    }
    Ok(arguments)
}

fn macos() -> Result<Ready> {
    require(Command::new("cmake").arg("--version"), "cmake (`brew install cmake`)")?;
    require(Command::new("xcrun").args(["--sdk", "macosx", "--find", "metal"]), "Xcode's Metal compiler")?;
    Ok(Ready { libraries: Vec::new() })
}

/// That a program is there and answers.
fn require(command: &mut Command, what: &str) -> Result<()> {
    let answer = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if answer.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(anyhow::anyhow!("{what} is not installed")).context("MLX needs it to be built")
}

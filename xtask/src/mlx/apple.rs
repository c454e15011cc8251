//! What the macOS code of the MLX plugin is checked with where there is no Mac: the declarations of MLX's C
//! interface as they are there. Nothing is compiled or linked for it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::sources::{bindings, create, make, mlx_sys, place, wheels, write};
use crate::workspace::Workspace;

/// Zig, which has clang with the headers of macOS, and the library of clang.
pub const WHEELS: &str = include_str!("apple.txt");

/// Arguments for cargo with which mlx-sys finds the declarations, instead of building MLX.
pub fn arguments(workspace: &Workspace, target: &str) -> Result<Vec<String>> {
    let place = declarations(workspace, target).context(
        "the macOS declarations of MLX could not be made here, without which its plugin cannot be checked",
    )?;
    let place = place.to_str().context("the build directory's path is not UTF-8")?;
    // JSON's strings are TOML's.
    let place = serde_json::to_string(place)?;
    Ok(vec!["--config".into(), format!("target.{target}.mlx.rustc-env.OUT_DIR={place}")])
}

/// The folder that holds `bindings.rs`.
fn declarations(workspace: &Workspace, target: &str) -> Result<PathBuf> {
    let place = place(workspace, "apple", target, &WHEELS)?;
    if !place.is_dir() {
        eprintln!("Making the declarations of MLX for {target}, once.");
        make(workspace, &place, |work| {
            let wheels = wheels(workspace, WHEELS, work)?;
            let (_, mlx_sys) = mlx_sys(workspace, target)?;
            let headers = mlx_sys.join("src/mlx-c");
            let zig = wheels.join("ziglang/lib");
            let arguments = [
                format!("--target={target}"),
                "-nostdinc".into(),
                format!("-I{}", headers.display()),
                format!("-isystem{}", zig.join("include").display()),
                format!("-isystem{}", zig.join("libc/include/any-darwin-any").display()),
            ];
            let made = work.join("made");
            create(&made)?;
            write(&made.join("bindings.rs"), &bindings(workspace, &headers, &wheels, &arguments, work)?)?;
            Ok(made)
        })?;
    }
    Ok(place)
}

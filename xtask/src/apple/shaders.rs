//! Checks the candle plugin's kernels as Metal's compiler would read them.
//!
//! Apple's compiler is on a Mac only. Clang has a language with the same address spaces and the same rules for kernels,
//! C++ for OpenCL; `shims/metal_stdlib` gives it Metal's words. So a pointer into the wrong memory or into none by
//! name, a `double`, memory of a block outside a kernel, a reserved word are errors here too. What differs is Metal's
//! library, which the shim only declares. The compiler is the one inside the wheel of Zig.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use crate::{mlx, process};

/// The text that includes all kernels.
const KERNELS: &str = "kernels.metal";
const SOURCES: &str = "plugins/candle/src/kernel/source";
const SHIMS: &str = "xtask/src/apple/shims";
/// Metal 3.2, of macOS 15.
const LANGUAGE: &str = "-D__METAL_VERSION__=320";

/// Metal's attributes that the kernels use: a misspelt one would be skipped as unknown by another compiler.
const ATTRIBUTES: [&str; 4] = [
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "thread_position_in_threadgroup",
    "threads_per_threadgroup",
];

pub fn check(workspace: &Workspace) -> Result<()> {
    let sources = workspace.root.join(SOURCES);
    let prelude = read(&sources.join("prelude_metal.h"))?;
    let unknown = unknown_attributes(&prelude);
    ensure!(unknown.is_empty(), "{SOURCES}/prelude_metal.h has attributes that Metal has not: {unknown:?}");
    let mut compile = Command::new(compiler(workspace)?);
    compile.args(["clang", "-cc1", "-x", "clcpp", "-cl-std=clc++2021", "-triple", "spir64", LANGUAGE]);
    // Metal has no double at all.
    compile.arg("-cl-ext=-cl_khr_fp64,-__opencl_c_fp64");
    compile.args(["-Wall", "-Wextra", "-Wdouble-promotion", "-Wno-unknown-attributes", "-Werror"]);
    // Helpers for other types than those that have kernels.
    compile.arg("-Wno-unused-function");
    let shims = workspace.root.join(SHIMS);
    compile.arg("-internal-isystem").arg(&shims).arg("-I").arg(&sources);
    compile.arg("-ast-dump").arg(shims.join(KERNELS));
    let output = compile.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("could not start `{}`", process::line(&compile)))?;
    ensure!(output.status.success(), "the kernels in {SOURCES} are not Metal's language (see above)");
    let tree = String::from_utf8_lossy(&output.stdout);
    let (kernels, unnamed) = (kernels(&tree), unnamed_spaces(&tree));
    ensure!(kernels > 0, "no kernel was found in {SOURCES}");
    if !unnamed.is_empty() {
        bail!(
            "Metal wants to know what memory a pointer is into (GLOBAL, SHARED, PRIVATE):\n  {}",
            unnamed.into_iter().collect::<Vec<_>>().join("\n  ")
        );
    }
    println!("{kernels} kernels are in Metal's language");
    Ok(())
}

/// The program, out of its wheel once.
fn compiler(workspace: &Workspace) -> Result<PathBuf> {
    let wheel = mlx::APPLE_WHEELS.lines().find(|line| line.starts_with("ziglang==")).unwrap_or_default();
    let version = wheel.split_whitespace().next().unwrap_or_default();
    let place = workspace.target.join("apple").join(version.replace("==", "-"));
    if !place.is_file() {
        let steps = |work: &Path| {
            let zig = mlx::wheels(workspace, wheel, work)?.join("ziglang/zig");
            make_executable(&zig)?;
            Ok(zig)
        };
        mlx::make(workspace, &place, steps)
            .context("clang, with which the Metal kernels are checked, could not be fetched with pip")?;
    }
    Ok(place)
}

#[cfg(unix)]
fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("could not make {} executable", file.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

fn unknown_attributes(text: &str) -> Vec<&str> {
    let each = text.split("[[").skip(1).filter_map(|rest| rest.split("]]").next());
    each.filter(|name| !ATTRIBUTES.contains(name)).collect()
}

/// How many functions are kernels, in clang's picture of the program.
fn kernels(tree: &str) -> usize {
    tree.lines().filter(|line| line.contains("DeviceKernelAttr") || line.contains("OpenCLKernelAttr")).count()
}

/// Variables, parameters and members whose memory is not named: clang calls it generic. What a compiler adds to a
/// struct of its own accord has no name.
fn unnamed_spaces(tree: &str) -> BTreeSet<String> {
    let declares =
        |line: &&str| ["ParmVarDecl ", "VarDecl ", "FieldDecl "].iter().any(|kind| line.contains(kind));
    tree.lines().filter(declares).filter_map(unnamed_space).collect()
}

fn unnamed_space(line: &str) -> Option<String> {
    let (before, ty) = line.split_once('\'')?;
    let name = before.split_whitespace().last()?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !name.contains(':');
    let ty = ty.split('\'').next()?;
    let has_name = is_name && !["used", "referenced", "implicit"].contains(&name);
    (has_name && ty.contains("__generic")).then(|| format!("{name}: {ty}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clang prints for `inline float bad(float *p)`, for one with its memory named, and for what it adds itself.
    #[test]
    fn a_pointer_into_unnamed_memory_is_found() {
        let tree = "|-ParmVarDecl 0x7f <col:18, col:25> col:25 used p '__generic float *__private'\n\
                    |-ParmVarDecl 0x7f <col:18, col:25> col:25 used q 'const __global float *__private'\n\
                    | `-ParmVarDecl 0x7f <col:8> col:8 used '__generic Place &&'\n\
                    | `-ParmVarDecl 0x7f <col:8> col:8 'const __generic Place &'\n";
        assert_eq!(unnamed_spaces(tree).into_iter().collect::<Vec<_>>(), ["p: __generic float *__private"]);
    }

    #[test]
    fn a_misspelt_attribute_is_found() {
        assert_eq!(
            unknown_attributes("uint3 a [[threads_per_threadgroup]], b [[threads_in_group]]"),
            ["threads_in_group"]
        );
    }
}

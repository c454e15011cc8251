//! Building the program and its plugins, and laying them out as a user has them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::{Plugin, Workspace, items};
use crate::{install, process};

const PROGRAM_PACKAGE: &str = "finetune-host";
const PROGRAM: &str = "finetune";
const LIBRARY_EXTENSIONS: [&str; 3] = ["so", "dylib", "dll"];

#[derive(Clone, Copy)]
pub enum Profile {
    Dev,
    Release,
}

/// The product, ready to use.
pub struct Built {
    pub program: PathBuf,
    /// The folder of the plugins, beside the program, where the program looks by itself.
    pub plugins: PathBuf,
}

/// Builds what a user needs: the program and the plugins.
pub fn product(workspace: &Workspace, profile: Profile) -> Result<Built> {
    let mut cargo = build_command(workspace);
    cargo.args(["--package", PROGRAM_PACKAGE]);
    for plugin in &workspace.plugins {
        cargo.args(["--package", &plugin.package]);
    }
    if let Profile::Release = profile {
        cargo.arg("--release");
    }
    build(workspace, &mut cargo)
}

/// Builds what the tests need. All targets at once, so that running the tests afterwards compiles nothing again:
/// a narrower choice of packages would give the dependencies other features.
pub fn everything(workspace: &Workspace) -> Result<Built> {
    let mut cargo = build_command(workspace);
    build(workspace, cargo.args(["--workspace", "--lib", "--bins", "--tests", "--examples"]))
}

fn build_command(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--message-format=json-render-diagnostics"]).args(workspace.feature_arguments());
    cargo
}

fn build(workspace: &Workspace, cargo: &mut Command) -> Result<Built> {
    let artifacts = artifacts(cargo, &workspace.plugins)?;
    let program = artifacts.program.context("cargo built no program `finetune`")?;
    let beside = program.parent().context("cargo named the program without its folder")?;
    let plugins = beside.join("plugins");
    let files: Vec<_> = artifacts.libraries.iter().chain(&workspace.beside).collect();
    install::plugins(&files, &workspace.libraries, &plugins)?;
    Ok(Built { program, plugins })
}

#[derive(Default)]
struct Artifacts {
    program: Option<PathBuf>,
    libraries: Vec<PathBuf>,
}

/// Runs cargo and takes from its messages where it put the program and each plugin's library.
fn artifacts(cargo: &mut Command, plugins: &[Plugin]) -> Result<Artifacts> {
    let shown = process::line(cargo);
    let mut child =
        cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("could not start `{shown}`"))?;
    let messages = child.stdout.take().context("cargo's output was not captured")?;
    let mut found = Artifacts::default();
    for message in BufReader::new(messages).lines() {
        let message = message.with_context(|| format!("could not read the messages of `{shown}`"))?;
        // Build scripts and compilers may print lines of their own.
        if let Ok(message) = serde_json::from_str::<Value>(&message) {
            found.take(&message, plugins);
        }
    }
    let status = child.wait().with_context(|| format!("could not wait for `{shown}`"))?;
    if !status.success() {
        bail!("the build failed (`{shown}`: {status})");
    }
    if found.libraries.len() != plugins.len() {
        let (built, expected) = (found.libraries.len(), plugins.len());
        bail!(
            "the workspace has {expected} plugins, but cargo built {built} plugin libraries: {:?}",
            found.libraries
        );
    }
    Ok(found)
}

impl Artifacts {
    fn take(&mut self, message: &Value, plugins: &[Plugin]) {
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] == true {
            return;
        }
        let target = &message["target"];
        if target["name"] == PROGRAM && items(&target["kind"]).any(|kind| kind == "bin") {
            self.program = message["executable"].as_str().map(PathBuf::from);
        }
        if plugins.iter().any(|plugin| message["package_id"] == plugin.id.as_str()) {
            let files = items(&message["filenames"]).filter_map(Value::as_str).map(PathBuf::from);
            self.libraries.extend(files.filter(|file| is_library(file)));
        }
    }
}

/// Whether the name is a dynamic library's on any system.
pub fn is_library(file: &Path) -> bool {
    file.extension().and_then(OsStr::to_str).is_some_and(|extension| LIBRARY_EXTENSIONS.contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The unit-test build of a plugin, its rlib and other crates' libraries must not land among the plugins.
    #[test]
    fn only_the_plugins_own_library_is_taken_from_cargos_messages() {
        let plugins = [Plugin { package: "p".into(), id: "p 1".into() }];
        let message = |id: &str, test: bool, files: &[&str]| {
            json!({"reason": "compiler-artifact", "package_id": id, "profile": {"test": test},
                   "target": {"name": "p", "kind": ["cdylib", "rlib"]}, "filenames": files, "executable": null})
        };
        let mut found = Artifacts::default();
        found.take(&message("p 1", false, &["/t/libp.so", "/t/libp.rlib"]), &plugins);
        found.take(&message("p 1", true, &["/t/deps/libp-0.so"]), &plugins);
        found.take(&message("macros 1", false, &["/t/deps/libmacros.so"]), &plugins);
        assert_eq!(found.libraries, [PathBuf::from("/t/libp.so")]);
        assert_eq!(found.program, None);
    }

    /// A test harness of the program is called like the program itself.
    #[test]
    fn the_program_is_the_binary_and_not_its_unit_tests() {
        let message = |test: bool, path: &str| {
            json!({"reason": "compiler-artifact", "package_id": "h", "profile": {"test": test},
                   "target": {"name": "finetune", "kind": ["bin"]}, "filenames": [path], "executable": path})
        };
        let mut found = Artifacts::default();
        found.take(&message(false, "/t/finetune"), &[]);
        found.take(&message(true, "/t/deps/finetune-0"), &[]);
        assert_eq!(found.program, Some(PathBuf::from("/t/finetune")));
    }
}

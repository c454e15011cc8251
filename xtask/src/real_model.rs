//! The real model that tests named `real_model` train: fetched and converted by a script in Python.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::workspace::Workspace;

/// The Hugging Face folder of SmolLM2-135M-Instruct in the build directory, made if it is not there.
pub fn folder(workspace: &Workspace) -> Result<PathBuf> {
    let script = workspace.root.join("tests").join("real").join("fetch.py");
    let mut fetch = Command::new(python()?);
    fetch.arg(&script).arg(workspace.target.join("real")).stdin(Stdio::null());
    let printed = process::output(&mut fetch).context("the real model could not be made")?;
    let folder = printed.lines().last().map(PathBuf::from);
    folder.filter(|folder| folder.is_dir()).with_context(|| format!("{} named no folder", script.display()))
}

fn python() -> Result<&'static str> {
    for name in ["python3", "python"] {
        let answer = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if answer.is_ok_and(|status| status.success()) {
            return Ok(name);
        }
    }
    bail!(
        "the real model is fetched by a script that needs Python 3.11 or newer, and there is no `python3` here"
    )
}

//! What cargo knows of this workspace: its root, its build directory, its plugins.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{apple, mlx, process};

pub struct Workspace {
    pub root: PathBuf,
    /// Where cargo builds: `target`, unless the user's configuration or `CARGO_TARGET_DIR` says otherwise.
    pub target: PathBuf,
    pub plugins: Vec<Plugin>,
    /// What plugins need in `lib` beside them.
    pub libraries: Vec<PathBuf>,
    /// What they need beside them, once they are built.
    pub beside: Vec<PathBuf>,
    /// Features without which a plugin is empty.
    pub features: Vec<&'static str>,
}

/// A member under `plugins/` that builds a dynamic library.
#[derive(Debug, PartialEq)]
pub struct Plugin {
    pub package: String,
    /// cargo's own id of the package, as its build messages name it.
    pub id: String,
}

impl Workspace {
    pub fn load() -> Result<Self> {
        let manifest = xtask_folder().join("Cargo.toml");
        let text = process::output(
            Command::new(cargo_program())
                .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
                .arg(manifest),
        )?;
        let metadata: Value = serde_json::from_str(&text).context("`cargo metadata` wrote no JSON")?;
        let path = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("`cargo metadata` gave no {key}"))
        };
        let root = path("workspace_root")?;
        let plugins = plugins(&metadata, &root.join("plugins"));
        let (libraries, beside, features) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { target: path("target_directory")?, root, plugins, libraries, beside, features })
    }

    /// Makes the MLX plugin one of those that are built, or says why it is not.
    pub fn with_mlx_where_possible(&mut self) {
        match mlx::set_up(self) {
            Ok(ready) => {
                self.libraries.extend(ready.libraries);
                self.beside.extend(ready.beside);
                self.features.push(mlx::FEATURE);
            }
            Err(error) => {
                eprintln!("The MLX plugin is left out: {error:#}.");
                self.plugins.retain(|plugin| plugin.package != mlx::PACKAGE);
            }
        }
    }

    /// The candle plugin is for Metal there, and for the processor elsewhere.
    pub fn with_metal_on_a_mac(&mut self) {
        if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
            self.features.push(apple::CANDLE_FEATURE);
        }
    }

    /// The arguments that turn the features on.
    pub fn feature_arguments(&self) -> Vec<&str> {
        self.features.iter().flat_map(|feature| ["--features", feature]).collect()
    }

    /// cargo, the same that runs this program, in the root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }
}

fn cargo_program() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `cargo run` says where the package lies now; the place it was compiled in may have moved since.
fn xtask_folder() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn plugins(metadata: &Value, folder: &Path) -> Vec<Plugin> {
    let builds_library = |package: &Value| {
        items(&package["targets"]).any(|target| items(&target["crate_types"]).any(|kind| kind == "cdylib"))
    };
    items(&metadata["packages"])
        .filter(|package| {
            package["manifest_path"].as_str().is_some_and(|path| Path::new(path).starts_with(folder))
        })
        .filter(|package| builds_library(package))
        .filter_map(|package| {
            Some(Plugin { package: package["name"].as_str()?.into(), id: package["id"].as_str()?.into() })
        })
        .collect()
}

/// The elements of an array; none for anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A helper crate beside the plugins, or a cdylib elsewhere (a misbehaving plugin of the tests), is not shipped.
    #[test]
    fn only_cdylibs_under_plugins_are_plugins() {
        let package = |name: &str, path: &str, kind: &str| {
            json!({"name": name, "id": format!("id of {name}"), "manifest_path": path,
                   "targets": [{"crate_types": [kind, "rlib"]}, {"crate_types": ["bin"]}]})
        };
        let metadata = json!({"packages": [
            package("a", "/w/plugins/a/Cargo.toml", "cdylib"),
            package("shared", "/w/plugins/shared/Cargo.toml", "lib"),
            package("bad", "/w/tests/bad/Cargo.toml", "cdylib"),
            package("lookalike", "/w/plugins-old/x/Cargo.toml", "cdylib"),
        ]});
        let found = plugins(&metadata, Path::new("/w/plugins"));
        assert_eq!(found, [Plugin { package: "a".into(), id: "id of a".into() }]);
    }
}

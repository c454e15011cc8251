//! The MLX plugin as it lies beside the program. These need it built: `cargo xtask test` leaves out, and names,
//! tests with `mlx_plugin` in their name where it cannot be.

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_tests::{binary, plugins, succeed};
use serde_json::Value;

/// A user's folder somewhere else: the program, the MLX plugin, and what it needs.
struct Copied {
    dir: tempfile::TempDir,
}

impl Copied {
    fn new() -> Copied {
        let dir = tempfile::Builder::new().prefix("finetune copied").tempdir().unwrap();
        let program = binary();
        std::fs::copy(&program, dir.path().join(program.file_name().unwrap())).unwrap();
        std::fs::create_dir_all(dir.path().join("plugins/lib")).unwrap();
        let plugin = plugin_name();
        std::fs::copy(plugins().join(&plugin), dir.path().join("plugins").join(&plugin))
            .unwrap_or_else(|error| panic!("{plugin}: {error}; run the tests by `cargo xtask test`"));
        for library in libraries(&plugins().join("lib")) {
            let to = dir.path().join("plugins/lib").join(library.file_name().unwrap());
            std::fs::copy(&library, to).unwrap();
        }
        Copied { dir }
    }

    /// The plugin's row in `plugins list`; the command itself succeeds, whatever it lists.
    fn row(&self) -> Value {
        let program = self.dir.path().join(binary().file_name().unwrap());
        let mut list = Command::new(program);
        list.args(["plugins", "list", "--json"]);
        for variable in ["FINETUNE_PLUGIN_PATH", "FINETUNE_BACKEND", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
            // The system would look there, too: the tests are run with the build's own folders in it.
            list.env_remove(variable);
        }
        let list: Value = serde_json::from_str(&succeed(&mut list)).expect("it prints JSON");
        let rows = list["plugins"].as_array().expect("a list of plugins");
        let own = rows.iter().find(|row| {
            row["path"].as_str().is_some_and(|path| Path::new(path).starts_with(self.dir.path()))
        });
        own.expect("the plugin has a row").clone()
    }
}

fn plugin_name() -> String {
    format!("{}finetune_mlx{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn libraries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}

/// Program and plugins are one folder to be put anywhere: nothing may be looked for where it was built.
#[test]
fn the_mlx_plugin_is_ready_wherever_the_folder_is_copied() {
    let row = Copied::new().row();
    assert_eq!(row["status"], "ready", "{row}");
}

/// A library that did not come along is named; the program neither crashes nor is silent.
#[test]
#[cfg(target_os = "linux")]
fn the_mlx_plugin_names_the_library_that_it_misses() {
    let copied = Copied::new();
    let all = libraries(&copied.dir.path().join("plugins/lib"));
    assert!(all.len() >= 2, "MLX and its BLAS, not {all:?}");
    for library in all {
        let aside = copied.dir.path().join("aside");
        std::fs::rename(&library, &aside).unwrap();
        let row = copied.row();
        std::fs::rename(&aside, &library).unwrap();
        let name = library.file_name().unwrap().to_str().unwrap();
        assert_eq!(row["status"], "refused", "without {name}: {row}");
        assert!(row["reason"].as_str().unwrap().contains(name), "without {name}: {row}");
    }
}

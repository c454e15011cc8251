//! Where the plugin finds the libraries that MLX is made of, when it is loaded and when it is tested.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_MLX").is_none() {
        return;
    }
    match env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("macos") => println!("cargo::rustc-cdylib-link-arg=-Wl,-rpath,@loader_path/lib"),
        _ => linux(),
    }
}

fn linux() {
    // An RPATH proper, not a RUNPATH: it holds for what libmlx.so needs, too.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib");
    // The folder that the set-up names in cargo's configuration; absent where mlx-sys built MLX itself.
    println!("cargo::rerun-if-env-changed=DEP_MLX_LIBS");
    if let Some(libraries) = env::var_os("DEP_MLX_LIBS") {
        beside_the_tests(Path::new(&libraries));
    }
}

/// Links the libraries into this build's folder and names it: cargo then runs tests and examples with it in
/// their search path, as it does for folders of its own only.
fn beside_the_tests(libraries: &Path) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let entries = fs::read_dir(libraries).unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask mlx` makes it", libraries.display());
    });
    for entry in entries {
        let from = entry.expect("a folder can be listed to its end").path();
        let to = out.join(from.file_name().expect("a listed file has a name"));
        let _ = fs::remove_file(&to);
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(|_| ()))
            .unwrap_or_else(|error| panic!("could not put {} to {}: {error}", from.display(), to.display()));
    }
    println!("cargo::rustc-link-search=native={}", out.display());
}

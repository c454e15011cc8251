//! Loads a plugin's library. From here on its code runs.

use std::path::Path;

use abi_stable::library::{LibHeader, LibraryError, lib_header_from_path};
use finetune_plugin_api::abi::PluginModule_Ref;

use super::manifest::Manifest;

/// Why a library is not used.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The end of a sentence that begins with the file's name.
    pub reason: String,
    /// Whether it will be the same as long as the file is: not where the system lacks something.
    pub lasting: bool,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { reason, lasting: true }
    }
}

/// Loads the library and checks that what it exports has the layout that this host expects. It is never
/// unloaded: threads and statics of it may live on.
///
/// # Errors
/// The library is not used.
pub(super) fn load(path: &Path, manifest: &Manifest) -> Result<PluginModule_Ref, Refusal> {
    let refused = |error| {
        // What the system's loader misses can come without this file's changing.
        let lasting = !matches!(error, LibraryError::OpenError { .. });
        Refusal { reason: sentence(error), lasting }
    };
    let header = lib_header_from_path(path).map_err(refused)?;
    check_version(header, manifest)?;
    // `RootModule::load_from` keeps one module per type, so that a second plugin would be the first.
    header.init_root_module::<PluginModule_Ref>().map_err(refused)
}

/// What the manifest says was read before; this is what the code was compiled with.
fn check_version(header: &'static LibHeader, manifest: &Manifest) -> Result<(), String> {
    let version = header.version_strings().version;
    super::manifest::check_api(version.as_str())?;
    if version.as_str() != manifest.api {
        return Err(format!(
            "contradicts itself: its manifest names version {} of finetune-plugin-api, its code was built with \
             {version}; rebuild it",
            manifest.api
        ));
    }
    Ok(())
}

fn sentence(error: LibraryError) -> String {
    tracing::debug!("{error}");
    match error {
        LibraryError::OpenError { err, .. } => cannot_open(&err.to_string()),
        LibraryError::GetSymbolError { .. } => {
            "has a manifest but no code of a plugin in it: its root module is missing".into()
        }
        LibraryError::InvalidAbiHeader(header) => format!(
            "was built with an abi_stable whose interface is {}.{}; this finetune has another: rebuild the plugin \
             against the same version of finetune-plugin-api",
            header.abi_major, header.abi_minor
        ),
        LibraryError::AbiInstability(_) => {
            "has types of another layout than this finetune although it names the same version of \
             finetune-plugin-api: rebuild it against the published one"
                .into()
        }
        LibraryError::RootModule { err, .. } => format!("failed when it was initialized: {err}"),
        other => format!(
            "cannot be loaded: {}",
            other.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
        ),
    }
}

/// Names what is missing where the system's loader says so.
fn cannot_open(message: &str) -> String {
    let message = message.trim();
    let missing = missing_dependency(message);
    match missing {
        Some(missing) => {
            format!(
                "needs {missing}, which is not installed or not found: install it, or put it where the plugin looks"
            )
        }
        None => format!("cannot be loaded: {message}"),
    }
}

fn missing_dependency(message: &str) -> Option<&str> {
    // glibc: "libx.so.1: cannot open shared object file: No such file or directory"
    if let Some((name, _)) = message.split_once(": cannot open shared object file: No such file") {
        return Some(name);
    }
    // musl: "Error loading shared library libx.so.1: No such file or directory (needed by ...)"
    if let Some(rest) = message.strip_prefix("Error loading shared library ") {
        return rest.split_once(": No such file").map(|(name, _)| name);
    }
    // macOS: "dlopen(...): Library not loaded: @rpath/libx.dylib\n  Referenced from: ..."
    let (_, rest) = message.split_once("Library not loaded: ")?;
    rest.lines().next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "File not found" about a file that is plainly there sends people the wrong way.
    #[test]
    fn a_missing_dependency_is_named() {
        for (message, name) in [
            ("libmlx.so: cannot open shared object file: No such file or directory", "libmlx.so"),
            (
                "Error loading shared library libcuda.so.1: No such file or directory (needed by /p.so)",
                "libcuda.so.1",
            ),
            (
                "dlopen(/p.dylib, 0x0005): Library not loaded: @rpath/libmlx.dylib\n  Referenced from: /p.dylib",
                "@rpath/libmlx.dylib",
            ),
        ] {
            let sentence = cannot_open(message);
            assert!(sentence.starts_with(&format!("needs {name}, which")), "{sentence}");
        }
        assert_eq!(cannot_open("/p.so: undefined symbol: f"), "cannot be loaded: /p.so: undefined symbol: f");
    }
}

//! What a plugin says about itself, read from its file without running any of it.

use std::fs::File;
use std::path::Path;

use finetune_plugin_api::abi::{API_VERSION, manifest};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::binary::{self, Needs};
use super::trust;

/// The plugin's own words. See [`finetune_plugin_api::abi::manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What `--backend` takes.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// The version of the interface that it was built against.
    pub api: String,
    /// Who made it.
    pub vendor: String,
    /// Its licence.
    pub license: String,
    /// What it drives.
    pub description: String,
}

/// Reads the manifest of a file, whoever may write it.
///
/// # Errors
/// The end of a sentence that begins with the file's name: it is no library, not one for this system, no
/// plugin, or its manifest is broken.
pub fn read(path: &Path) -> Result<Manifest, String> {
    let (file, _) = trust::open(path)?;
    Ok(read_from(file)?.0)
}

/// The manifest, and what the library needs.
pub(super) fn read_from(file: File) -> Result<(Manifest, Needs), String> {
    let contents = binary::read(file, manifest::SYMBOL, manifest::MAX_BYTES)?;
    Ok((parse(&contents.text)?, contents.needs))
}

fn parse(text: &[u8]) -> Result<Manifest, String> {
    let broken = |why: String| format!("has a broken manifest: {why}; its author has to rebuild it");
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| broken(error.to_string()))?;
    if !manifest::is_name(&manifest.name) {
        return Err(broken(format!(
            "its name is {:?}; expected lower-case letters, digits and '-'",
            manifest.name
        )));
    }
    Ok(manifest)
}

/// Whether this host can load a plugin built against that version of the interface.
///
/// # Errors
/// The end of a sentence that begins with the file's name.
pub fn check_api(api: &str) -> Result<(), String> {
    let host = Version::parse(API_VERSION).expect("this package's version");
    let plugin = Version::parse(api).map_err(|error| {
        format!("names the version {api:?} of the plugin interface, which is none: {error}")
    })?;
    let built = format!("was built against version {plugin} of finetune-plugin-api");
    if plugin.major != host.major {
        return Err(format!(
            "{built}; this finetune has {host}, and another major version cannot be loaded: rebuild the plugin \
             against {}.x",
            host.major
        ));
    }
    if plugin.minor > host.minor {
        return Err(format!(
            "{built}; this finetune has {host}, which is older: update finetune, or rebuild the plugin against \
             {}.{}",
            host.major, host.minor
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"name":"a","version":"1","api":"1.0.0","vendor":"v","license":"l","description":"d","more":[1]}"#;

    #[test]
    fn keys_may_be_added_but_not_left_out() {
        assert_eq!(parse(GOOD.as_bytes()).unwrap().name, "a");
        for key in ["name", "version", "api", "vendor", "license", "description"] {
            let without = GOOD.replace(&format!("\"{key}\""), "\"x\"");
            let error = parse(without.as_bytes()).unwrap_err();
            assert!(error.contains(&format!("missing field `{key}`")), "{error}");
        }
        for bad in ["", "[]", "{\"name\"", "\u{0}", &GOOD.replace("\"a\"", "\"A b\"")] {
            assert!(parse(bad.as_bytes()).unwrap_err().contains("broken manifest"), "{bad}");
        }
        assert!(parse(b"\xff{}").is_err());
    }

    /// A minor version is a promise in one direction only.
    #[test]
    fn older_minors_load_and_newer_ones_and_other_majors_do_not() {
        let host = Version::parse(API_VERSION).unwrap();
        let api = |major, minor, patch| check_api(&format!("{major}.{minor}.{patch}"));
        assert_eq!(api(host.major, host.minor, 0), Ok(()));
        assert_eq!(api(host.major, host.minor, 99), Ok(()));
        let newer = api(host.major, host.minor + 1, 0).unwrap_err();
        assert!(newer.contains("update finetune"), "{newer}");
        for major in [host.major + 1, 0] {
            let other = api(major, 0, 0).unwrap_err();
            assert!(other.contains(&format!("rebuild the plugin against {}.x", host.major)), "{other}");
        }
        for nonsense in ["", "1", "one", "1.0.0.0"] {
            assert!(check_api(nonsense).unwrap_err().contains("which is none"), "{nonsense}");
        }
    }
}

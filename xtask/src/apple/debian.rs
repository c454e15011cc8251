//! The source of Rust's standard library, from Debian's package of it: the one place besides rustup that has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// The compiler that the package below is the source of.
pub const RUSTC: &str = "1.95.0";
const SUITE: &str = "trixie-backports";
const VERSION: &str = "1.95.0+dfsg1-2~bpo13+1";
const SHA256: &str = "7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches and unpacks the package in `work`; returns the folder that holds `library`.
pub fn rust_source(work: &Path) -> Result<PathBuf> {
    let package = download(work)?;
    let unpacked = work.join("rust-src");
    process::run(Command::new("dpkg-deb").arg("--extract").args([&package, &unpacked]))?;
    let source = unpacked.join(format!("usr/src/rustc-{RUSTC}"));
    ensure!(
        source.join("library/std").is_dir(),
        "the package rust-src {VERSION} holds no usr/src/rustc-{RUSTC}/library/std"
    );
    Ok(source)
}

/// With a configuration, lists and state of its own: what apt knows of the system stays as it is.
fn download(work: &Path) -> Result<PathBuf> {
    ensure!(
        Path::new(KEYRING).is_file(),
        "Debian's signing keys are not here ({KEYRING}); install the package debian-archive-keyring"
    );
    let mirror = mirror()?;
    let apt = work.join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        let folder = apt.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    let shown = apt.display();
    write(&apt.join("status"), "")?;
    write(
        &apt.join("debian.sources"),
        &format!("Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"),
    )?;
    // Downloading as another user, apt's default for root, needs folders that this user may enter.
    let configuration = format!(
        "Dir::Etc::sourcelist \"{shown}/debian.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State \"{shown}/state\";\nDir::State::status \"{shown}/status\";\nDir::Cache \"{shown}/cache\";\n\
         APT::Sandbox::User \"\";\nAPT::Get::List-Cleanup \"false\";\n"
    );
    let file = apt.join("apt.conf");
    write(&file, &configuration)?;
    let get = || {
        let mut get = Command::new("apt-get");
        get.env("APT_CONFIG", &file).current_dir(&apt).arg("--quiet");
        get
    };
    process::run(get().args(["--error-on=any", "update"]))
        .with_context(|| format!("Debian's list of {SUITE} could not be fetched from {mirror}"))?;
    process::run(get().args(["download", &format!("rust-src={VERSION}")])).with_context(|| {
        format!(
            "{SUITE} does not give rust-src {VERSION} any more (or the download broke off). If it is gone, pin \
             the version and the SHA-256 of the one that fits the toolchain in xtask/src/apple/debian.rs"
        )
    })?;
    let package = only_package(&apt)?;
    let sum = process::output(Command::new("sha256sum").arg(&package))?;
    ensure!(
        sum.split_whitespace().next() == Some(SHA256),
        "{} has SHA-256 {}, expected {SHA256}",
        package.display(),
        sum.split_whitespace().next().unwrap_or("(none)")
    );
    Ok(package)
}

/// The Debian mirror that this machine's own apt is set up with.
fn mirror() -> Result<String> {
    let targets = process::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))
        .context(
            "the standard library's source comes from a Debian package, and apt-get does not answer here",
        )?;
    match debian_mirror(&targets) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => {
            bail!("this machine's apt sources name no Debian mirror, from which rust-src would be fetched")
        }
    }
}

/// The first archive of Debian itself, not its security archive nor another vendor's; each line is a URI.
fn debian_mirror(targets: &str) -> Option<&str> {
    targets.lines().map(|line| line.trim().trim_end_matches('/')).find(|uri| uri.ends_with("/debian"))
}

fn only_package(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut packages = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(packages) {
        Ok([package]) => Ok(package),
        Err(other) => bail!("expected one package in {}, found {other:?}", folder.display()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The security archive has no backports, and another vendor's archive is not signed by Debian.
    #[test]
    fn the_mirror_is_debians_main_archive() {
        let targets = "https://example.org/debian-security/\nhttps://vendor.example/node/\nhttps://example.org/debian/\n";
        assert_eq!(debian_mirror(targets), Some("https://example.org/debian"));
        assert_eq!(debian_mirror("https://example.org/ubuntu/\n"), None);
    }
}

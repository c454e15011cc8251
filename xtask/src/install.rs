//! Laying plugin libraries into a folder that a running program may be using.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::is_library;

/// Names of the libraries that were put into the folder from here, one a line. Only these are ever removed.
const LIST: &str = ".installed-by-xtask";
const ASIDE_SUFFIX: &str = ".xtask-new";
// Whatever the umask: a folder or a library that others may write to is refused by the program.
const OPEN_TO_RUN: u32 = 0o755;
const OPEN_TO_READ: u32 = 0o644;

/// Puts the plugins into `folder`, with what they need beside them, and the libraries that they need into
/// `folder/lib`; removes what was put there earlier and is no longer built. Files of other origin stay as they are.
pub fn plugins(plugins: &[impl AsRef<Path>], needed: &[impl AsRef<Path>], folder: &Path) -> Result<()> {
    fill(folder, plugins)?;
    fill(&folder.join("lib"), needed)
}

fn fill(folder: &Path, libraries: &[impl AsRef<Path>]) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("could not create the folder {}", folder.display()))?;
    set_mode(folder, OPEN_TO_RUN)?;
    let mut names = BTreeSet::new();
    for library in libraries.iter().map(AsRef::as_ref) {
        let name = library.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no plain file name", library.display()))?;
        put(library, &folder.join(name))?;
        names.insert(name.to_owned());
    }
    remove_stale(folder, &names)?;
    let list: String = names.iter().map(|name| format!("{name}\n")).collect();
    replace(&folder.join(LIST), list.as_bytes(), OPEN_TO_READ)
}

fn put(library: &Path, place: &Path) -> Result<()> {
    let bytes = fs::read(library).with_context(|| format!("could not read {}", library.display()))?;
    // An equal file keeps its inode and time, and a program that has it open is not bothered.
    if fs::read(place).is_ok_and(|present| present == bytes) {
        return set_mode(place, OPEN_TO_RUN);
    }
    replace(place, &bytes, OPEN_TO_RUN)
}

/// Writes aside and renames: a program that maps the old file keeps it whole, and no reader sees half of the new.
fn replace(place: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut aside = OsString::from(place);
    aside.push(format!(".{}{ASIDE_SUFFIX}", std::process::id()));
    let aside = Path::new(&aside);
    let written = write_and_rename(aside, place, bytes, mode);
    if written.is_err() {
        // The error that matters is the first; the leftover is harmless and not a library by its name.
        let _ = fs::remove_file(aside);
    }
    written.with_context(|| {
        let advice = if cfg!(windows) { "; end the programs that use it" } else { "" };
        format!("could not replace {}{advice}", place.display())
    })
}

fn write_and_rename(aside: &Path, place: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fs::write(aside, bytes)?;
    set_mode(aside, mode)?;
    Ok(fs::rename(aside, place)?)
}

fn remove_stale(folder: &Path, current: &BTreeSet<String>) -> Result<()> {
    let list = folder.join(LIST);
    let earlier = match fs::read_to_string(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.with_context(|| format!("could not read {}", list.display()))?,
    };
    // On Linux a version may follow the extension; on macOS kernels for the GPU are a file of their own.
    let is_library =
        |name: &str| is_library(Path::new(name)) || name.contains(".so.") || name.ends_with(".metallib");
    let is_plain = |name: &str| Path::new(name).file_name() == Some(name.as_ref()) && is_library(name);
    for name in earlier.lines().filter(|name| is_plain(name) && !current.contains(*name)) {
        let stale = folder.join(name);
        match fs::remove_file(&stale) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed.with_context(|| format!("could not remove the old {}", stale.display()))?;
                eprintln!("removed {}: it is no longer built", stale.display());
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("could not set the permissions of {}", path.display()))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const NONE: &[PathBuf] = &[];

    /// A folder of its own for one test, empty at the start.
    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("built")).unwrap();
        folder
    }

    fn built(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join("built").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn listing(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A user's own plugin in the same folder survives; a plugin that left the workspace does not.
    #[test]
    fn removes_what_it_put_there_and_nothing_else() {
        let folder = scratch("stale");
        let plugins_folder = folder.join("plugins");
        let (one, two) = (built(&folder, "libone.so", "1"), built(&folder, "libtwo.so", "2"));
        let needed = built(&folder, "libneeded.so.3.10", "4");
        plugins(&[&one, &two], &[&needed], &plugins_folder).unwrap();
        assert_eq!(listing(&plugins_folder.join("lib")), [LIST, "libneeded.so.3.10"]);
        fs::write(plugins_folder.join("libtheirs.so"), "3").unwrap();
        plugins(&[&two], NONE, &plugins_folder).unwrap();
        assert_eq!(listing(&plugins_folder), [LIST, "lib", "libtheirs.so", "libtwo.so"]);
        assert_eq!(listing(&plugins_folder.join("lib")), [LIST]);
        fs::remove_dir_all(folder).unwrap();
    }

    /// The list is a file that anyone may have edited: it must not lead out of the folder, or to `lib`.
    #[test]
    fn an_edited_list_removes_nothing_outside_the_folder() {
        let folder = scratch("list");
        let plugins_folder = folder.join("plugins");
        let outside = built(&folder, "outside.so", "kept");
        fs::create_dir_all(plugins_folder.join("lib")).unwrap();
        fs::write(plugins_folder.join("notes.txt"), "kept").unwrap();
        fs::write(plugins_folder.join(LIST), "../built/outside.so\nlib\nnotes.txt\n..\n\n").unwrap();
        plugins(NONE, NONE, &plugins_folder).unwrap();
        assert!(outside.exists());
        assert_eq!(listing(&plugins_folder), [LIST, "lib", "notes.txt"]);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Overwriting in place would pull the code from under a program that has it mapped.
    #[cfg(unix)]
    #[test]
    fn a_changed_library_gets_a_new_inode_and_an_equal_one_keeps_its_own() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let folder = scratch("inode");
        let plugins_folder = folder.join("plugins");
        let place = plugins_folder.join("libone.so");
        let one = built(&folder, "libone.so", "old");
        plugins(&[&one], NONE, &plugins_folder).unwrap();
        // Held open, so that the file system cannot hand the freed inode number out again.
        let mapped = fs::File::open(&place).unwrap();
        let first = mapped.metadata().unwrap().ino();
        plugins(&[&one], NONE, &plugins_folder).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().ino(), first);
        built(&folder, "libone.so", "new");
        plugins(&[&one], NONE, &plugins_folder).unwrap();
        assert_ne!(fs::metadata(&place).unwrap().ino(), first);
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        for path in [&place, &plugins_folder, &plugins_folder.join("lib")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755, "{}", path.display());
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

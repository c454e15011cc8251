//! Which files are candidates: every entry of a plugins folder that is named like a dynamic library.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{PluginError, trust};

/// Names a list of folders, separated as in `PATH`.
pub const PATH_VARIABLE: &str = "FINETUNE_PLUGIN_PATH";

/// The folders to search, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// The folder, and whether someone named it: one that was named must be there.
    folders: Vec<(PathBuf, bool)>,
}

impl Folders {
    /// The folders that the user gives, in place of the others; if none, the default ones: `plugins` beside the
    /// program, the user's data folder, those of [`PATH_VARIABLE`]. Never the working directory. Where the program runs with more rights than
    /// whoever started it, the environment is not asked.
    pub fn new(given: &[PathBuf]) -> Result<Folders, PluginError> {
        if !given.is_empty() {
            return Ok(Folders::given(given));
        }
        let mut folders: Vec<(PathBuf, bool)> = Vec::new();
        // The program may be a link in a folder of links; its plugins lie where it really is.
        if let Ok(program) = env::current_exe().and_then(|program| program.canonicalize()) {
            folders.extend(program.parent().map(|folder| (folder.join("plugins"), false)));
        }
        folders.extend(data_folder(trust::variable).map(|folder| (folder, false)));
        let path = trust::variable(PATH_VARIABLE).unwrap_or_default();
        for folder in env::split_paths(&path).filter(|folder| !folder.as_os_str().is_empty()) {
            if folder.is_relative() {
                return Err(PluginError::RelativeFolder(folder));
            }
            folders.push((folder, true));
        }
        Ok(Folders { folders })
    }

    /// Exactly these folders.
    pub fn given(folders: &[PathBuf]) -> Folders {
        Folders { folders: folders.iter().map(|folder| (folder.clone(), true)).collect() }
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.folders.iter().map(|(folder, _)| folder.as_path())
    }

    /// The candidates: absolute paths, by folder and then by name. What is named like a library is one,
    /// whatever it is, so that it can be said what is wrong with it.
    ///
    /// # Errors
    /// A folder that someone named is not there or cannot be read.
    pub fn candidates(&self) -> Result<Vec<PathBuf>, PluginError> {
        let mut seen: Vec<PathBuf> = Vec::new();
        let mut candidates = Vec::new();
        for (folder, named) in &self.folders {
            let unreadable = |error| PluginError::Folder { folder: folder.clone(), error };
            let real = match folder.canonicalize() {
                Ok(real) => real,
                Err(_) if !named => continue,
                Err(error) => return Err(unreadable(error)),
            };
            if seen.contains(&real) {
                continue;
            }
            seen.push(real);
            let folder = std::path::absolute(folder).map_err(unreadable)?;
            let entries = std::fs::read_dir(&folder).map_err(unreadable)?;
            let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
            let mut entries = entries.map_err(unreadable)?;
            entries.retain(|path| is_library_name(path));
            entries.sort();
            candidates.extend(entries);
        }
        Ok(candidates)
    }
}

/// Where the user's own plugins lie on this system.
fn data_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder: &PathBuf| folder.is_absolute());
    let data = if cfg!(windows) {
        folder("APPDATA")?
    } else if cfg!(target_os = "macos") {
        folder("HOME")?.join("Library/Application Support")
    } else {
        folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))?
    };
    Some(data.join("finetune").join("plugins"))
}

fn is_library_name(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| extension == "so" || extension == "dylib" || extension == "dll")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A candidate that is passed over in silence is the mistake that this list is there to avoid.
    #[test]
    fn everything_named_like_a_library_is_a_candidate_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.so", "a.dylib", "c.DLL", "readme.txt", "libx.so.1", "so"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("d.so")).unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        let found = Folders::given(&[folder.path().into()]).candidates().unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.dylib", "b.so", "c.DLL", "d.so"]);
    }

    #[test]
    fn a_named_folder_must_exist_and_is_searched_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.so"), "").unwrap();
        let twice = [folder.path().to_path_buf(), folder.path().join(".")];
        assert_eq!(Folders::given(&twice).candidates().unwrap().len(), 1);
        let missing = folder.path().join("nowhere");
        let error = Folders::given(std::slice::from_ref(&missing)).candidates().unwrap_err().to_string();
        assert!(error.contains("nowhere"), "{error}");
        let quiet = Folders { folders: vec![(missing, false)] };
        assert!(quiet.candidates().unwrap().is_empty());
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn the_data_folder_follows_the_base_directory_rules() {
        let with = |xdg: Option<&'static str>| {
            data_folder(move |name| match name {
                "XDG_DATA_HOME" => xdg.map(Into::into),
                "HOME" => Some("/home/me".into()),
                _ => None,
            })
        };
        assert_eq!(with(Some("/data")).unwrap(), Path::new("/data/finetune/plugins"));
        for ignored in [None, Some(""), Some("relative")] {
            assert_eq!(with(ignored).unwrap(), Path::new("/home/me/.local/share/finetune/plugins"));
        }
    }
}

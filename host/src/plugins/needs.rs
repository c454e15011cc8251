//! Whether the libraries that a plugin needs are there, found as the system's loader would, without loading any.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::binary::{self, Needs};
use super::cache::Stamp;
use super::trust;

/// More libraries than this are not followed.
const MAX_FOLLOWED: usize = 64;

/// Folders in which the system keeps libraries, where its loader has no list of them.
const SYSTEM: [&str; 6] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"];

/// The libraries that a plugin brings along or finds outside of the system's folders, with theirs.
///
/// # Errors
/// The end of a sentence that begins with the plugin's file name: what is missing, by its name.
pub(super) fn resolve(plugin: &Path, needs: Needs) -> Result<Vec<(PathBuf, Stamp)>, String> {
    if cfg!(windows) {
        return Ok(Vec::new());
    }
    let plugin = plugin.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
    let mut found: Vec<(PathBuf, Stamp)> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut open = vec![(plugin.clone(), needs, Vec::new())];
    let system = System::new();
    while let Some((library, needs, before)) = open.pop() {
        let rpaths = rpaths(&library, &needs, before);
        for name in &needs.names {
            if !seen.insert(name.clone()) || seen.len() > MAX_FOLLOWED {
                continue;
            }
            match system.find(&library, &needs, &rpaths, name) {
                Found::System => {}
                Found::InWorkingFolder => return Err(in_working_folder(name, &library)),
                Found::At { path, said_by_user } => {
                    let Ok((file, metadata)) = trust::open(&path) else { continue };
                    // Its code runs as the plugin's does. Where the user says by a variable, it is the user's affair.
                    if !said_by_user {
                        trust::check(&path, &metadata).map_err(|why| format!("needs {name}, which {why}"))?;
                    }
                    found.push((path.clone(), Stamp::of(&metadata)));
                    // What it says of itself is the loader's business if it cannot be read here.
                    open.extend(binary::read_needs(file).ok().map(|needs| (path, needs, rpaths.clone())));
                }
                Found::Nowhere => return Err(missing(name, &library, &plugin)),
            }
        }
    }
    Ok(found)
}

/// A library's DT_RPATH, and those of the libraries that brought it: they count for whatever is loaded below.
fn rpaths(library: &Path, needs: &Needs, before: Vec<PathBuf>) -> Vec<PathBuf> {
    let own = needs.rpath.iter().filter(|_| needs.runpath.is_none());
    own.map(|folder| expanded(library, folder)).chain(before).collect()
}

pub(super) fn missing(name: &str, library: &Path, plugin: &Path) -> String {
    let for_whom = match library == plugin {
        true => String::new(),
        false => format!(" (for {})", library.file_name().unwrap_or_default().to_string_lossy()),
    };
    format!(
        "needs {name}{for_whom}, which is not installed or not found: install it, or put it where the plugin looks"
    )
}

fn in_working_folder(name: &str, library: &Path) -> String {
    let file = library.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "would take {name} from the working directory, because {file} names a folder to search that is relative; its \
         author has to build it with $ORIGIN"
    )
}

enum Found {
    /// In the system's care.
    System,
    At {
        path: PathBuf,
        /// By a variable of the environment.
        said_by_user: bool,
    },
    /// Where the loader would look is wherever the program was started.
    InWorkingFolder,
    Nowhere,
}

/// The loader's own knowledge.
struct System {
    /// Paths of the libraries in glibc's list, if there is one.
    listed: Vec<String>,
    /// `LD_LIBRARY_PATH`.
    given: Vec<PathBuf>,
    /// What this program needs itself is loaded already, and not looked for again.
    loaded: Vec<String>,
}

impl System {
    fn new() -> System {
        let listed = match cfg!(target_os = "linux") {
            true => std::fs::read("/etc/ld.so.cache").unwrap_or_default(),
            false => Vec::new(),
        };
        let listed = listed.split(|&byte| byte == 0).filter(|text| text.starts_with(b"/"));
        let listed = listed.map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
        let given = trust::variable(variable).unwrap_or_default();
        let program = std::env::current_exe().and_then(File::open).ok();
        let loaded = program.and_then(|file| binary::read_needs(file).ok());
        System {
            listed,
            given: std::env::split_paths(&given).collect(),
            loaded: loaded.map(|needs| needs.names).unwrap_or_default(),
        }
    }

    fn find(&self, library: &Path, needs: &Needs, rpaths: &[PathBuf], name: &str) -> Found {
        match cfg!(target_vendor = "apple") {
            true => find_on_macos(library, needs, name),
            false => self.find_on_linux(library, needs, rpaths, name),
        }
    }

    /// As ld.so(8) says.
    fn find_on_linux(&self, library: &Path, needs: &Needs, rpaths: &[PathBuf], name: &str) -> Found {
        if name.contains('/') {
            let path = expanded(library, name);
            return match path.is_relative() {
                true => Found::InWorkingFolder,
                false => at(path).unwrap_or(Found::Nowhere),
            };
        }
        if self.loaded.iter().any(|loaded| loaded == name) || name.starts_with("ld-linux") {
            return Found::System;
        }
        // A library with a DT_RUNPATH asks no DT_RPATH, not even of those that brought it.
        let before = rpaths.iter().filter(|_| needs.runpath.is_none()).map(|folder| (folder.clone(), false));
        let given = self.given.iter().map(|folder| (folder.clone(), true));
        let runpath = needs.runpath.iter().flatten();
        let after = runpath.map(|folder| (expanded(library, folder), false));
        for (folder, said_by_user) in before.chain(given).chain(after) {
            if folder.is_relative() && !said_by_user {
                return Found::InWorkingFolder;
            }
            let path = folder.join(name);
            if is_for_this_machine(&path) {
                return Found::At { path, said_by_user };
            }
        }
        let end = format!("/{name}");
        let listed = self.listed.iter().filter(|path| path.ends_with(&end)).map(PathBuf::from);
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let folders = SYSTEM.iter().flat_map(|folder| [Path::new(folder).join(&multiarch), folder.into()]);
        let mut system = listed.chain(folders.map(|folder| folder.join(name)));
        match system.any(|path| is_for_this_machine(&path)) {
            true => Found::System,
            false => Found::Nowhere,
        }
    }
}

/// The system's own libraries are in no file; only what lies relative to the plugin can be looked for.
fn find_on_macos(library: &Path, needs: &Needs, name: &str) -> Found {
    let here = |path: &str| {
        let rest = path.strip_prefix("@loader_path/")?;
        Some(library.parent()?.join(rest))
    };
    if let Some(path) = here(name) {
        return at(path).unwrap_or(Found::Nowhere);
    }
    let Some(rest) = name.strip_prefix("@rpath/") else { return Found::System };
    let folders = needs.rpath.iter().map(|folder| {
        let folder = if folder == "@loader_path" { "@loader_path/" } else { folder };
        here(folder).unwrap_or_else(|| PathBuf::from(folder))
    });
    // Where the program itself lies counts, too, and is not told apart here.
    if needs.rpath.iter().any(|folder| folder.starts_with("@executable_path")) {
        return Found::System;
    }
    folders.map(|folder| folder.join(rest)).find_map(at).unwrap_or(Found::Nowhere)
}

fn at(path: PathBuf) -> Option<Found> {
    is_for_this_machine(&path).then_some(Found::At { path, said_by_user: false })
}

fn expanded(library: &Path, text: &str) -> PathBuf {
    let origin = library.parent().unwrap_or(library).to_string_lossy();
    let lib = if cfg!(target_pointer_width = "64") { "lib64" } else { "lib" };
    let mut text = text.to_string();
    for (variable, value) in [("ORIGIN", origin.as_ref()), ("LIB", lib), ("PLATFORM", std::env::consts::ARCH)]
    {
        text = text.replace(&format!("${{{variable}}}"), value).replace(&format!("${variable}"), value);
    }
    PathBuf::from(text)
}

/// The loader passes over libraries for other machines.
fn is_for_this_machine(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    if cfg!(target_vendor = "apple") {
        return true;
    }
    let mut head = [0; 5];
    let class = if cfg!(target_pointer_width = "64") { 2 } else { 1 };
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == [0x7f, b'E', b'L', b'F', class]
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn build(output: &Path, arguments: &[&str]) {
        let source = output.with_extension("c");
        fs::write(&source, "int f(void) { return 1; }\n").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"])
            .arg(output)
            .arg(&source)
            .args(["-Wl,--no-as-needed"])
            .args(arguments);
        let status = cc.status().expect("a C compiler");
        assert!(status.success());
    }

    fn check(plugin: &Path) -> Result<Vec<PathBuf>, String> {
        let needs = binary::read_needs(File::open(plugin).unwrap()).unwrap();
        let found = resolve(plugin, needs)?;
        Ok(found.into_iter().map(|(path, _)| path.file_name().unwrap().into()).collect())
    }

    /// As MLX's own library lies beside its plugin: what it needs is found by the plugin's DT_RPATH alone.
    #[test]
    fn the_rpath_of_whoever_brought_a_library_counts_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let here = format!("-L{}", folder.path().display());
        build(&at("libdeep.so"), &[]);
        build(
            &at("libnear.so"),
            &[&here, "-ldeep", "-Wl,-rpath,$ORIGIN/elsewhere", "-Wl,--disable-new-dtags"],
        );
        let plugin = |tags: &str| build(&at("plugin.so"), &[&here, "-lnear", "-Wl,-rpath,$ORIGIN", tags]);
        plugin("-Wl,--disable-new-dtags");
        assert_eq!(check(&at("plugin.so")).unwrap(), [Path::new("libnear.so"), Path::new("libdeep.so")]);
        plugin("-Wl,--enable-new-dtags");
        assert!(check(&at("plugin.so")).unwrap_err().starts_with("needs libdeep.so (for libnear.so)"));
        build(
            &at("libnear.so"),
            &[&here, "-ldeep", "-Wl,-rpath,$ORIGIN/elsewhere", "-Wl,--enable-new-dtags"],
        );
        plugin("-Wl,--disable-new-dtags");
        assert!(check(&at("plugin.so")).unwrap_err().starts_with("needs libdeep.so (for libnear.so)"));
    }

    /// The loader's own message is about the plugin's file, which is plainly there.
    #[test]
    fn a_missing_library_is_named_also_where_another_library_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let here = format!("-L{}", folder.path().display());
        build(&at("libdeep.so"), &[]);
        build(&at("libnear.so"), &[&here, "-ldeep", "-Wl,-rpath,$ORIGIN"]);
        for tags in ["-Wl,--enable-new-dtags", "-Wl,--disable-new-dtags"] {
            build(&at("plugin.so"), &[&here, "-lnear", "-lm", "-Wl,-rpath,$ORIGIN/.", tags]);
            assert_eq!(check(&at("plugin.so")).unwrap(), [Path::new("libnear.so"), Path::new("libdeep.so")]);
        }
        fs::rename(at("libdeep.so"), at("away")).unwrap();
        let reason = check(&at("plugin.so")).unwrap_err();
        assert!(reason.starts_with("needs libdeep.so (for libnear.so), which is not installed"), "{reason}");
        fs::remove_file(at("libnear.so")).unwrap();
        let reason = check(&at("plugin.so")).unwrap_err();
        assert!(reason.starts_with("needs libnear.so, which is not installed"), "{reason}");
        // A file of that name that the loader would pass over is none.
        fs::write(at("libnear.so"), "text").unwrap();
        assert!(check(&at("plugin.so")).is_err());
    }

    /// A plugin's libraries are code as much as it is: what others may write, and what would come from the working
    /// directory, keeps it from being loaded.
    #[test]
    fn needed_libraries_are_trusted_no_more_than_plugins() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let here = format!("-L{}", folder.path().display());
        build(&at("libnear.so"), &[]);
        let plugin = |path: &str| build(&at("plugin.so"), &[&here, "-lnear", &format!("-Wl,-rpath,{path}")]);
        plugin("$ORIGIN");
        check(&at("plugin.so")).unwrap();
        fs::set_permissions(at("libnear.so"), fs::Permissions::from_mode(0o666)).unwrap();
        let reason = check(&at("plugin.so")).unwrap_err();
        assert!(reason.starts_with("needs libnear.so, which may be written by everyone: `chmod"), "{reason}");
        fs::set_permissions(at("libnear.so"), fs::Permissions::from_mode(0o644)).unwrap();
        for path in ["libs", ".", "libs:$ORIGIN", ":$ORIGIN"] {
            plugin(path);
            let reason = check(&at("plugin.so")).unwrap_err();
            assert!(reason.contains("from the working directory"), "{path:?}: {reason}");
        }
        // Found before, it is not looked for there.
        plugin("$ORIGIN:libs");
        check(&at("plugin.so")).unwrap();
    }

    #[test]
    fn on_macos_what_is_relative_is_looked_for_and_the_rest_is_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        build(&folder.path().join("lib/libnear.dylib"), &[]);
        let plugin = folder.path().join("p.dylib");
        let needs = Needs { rpath: vec!["@loader_path/lib".into()], ..Needs::default() };
        let found = |name: &str| find_on_macos(&plugin, &needs, name);
        assert!(matches!(found("@rpath/libnear.dylib"), Found::At { .. }));
        assert!(matches!(found("@loader_path/lib/libnear.dylib"), Found::At { .. }));
        assert!(matches!(found("@rpath/libfar.dylib"), Found::Nowhere));
        assert!(matches!(found("/usr/lib/libSystem.B.dylib"), Found::System));
    }
}

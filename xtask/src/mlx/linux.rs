//! MLX for Linux: the library of a Python wheel, and the C interface compiled from the sources in mlx-sys.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Ready, require};
use crate::process;
use crate::workspace::{Workspace, items};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What pip is asked for, with the hashes.
const WHEELS: &str = include_str!("linux.txt");
const BINDGEN: &str = "0.72.1";
/// The same that mlx-sys has bindgen write for.
const BINDINGS_FOR: &str = "1.73.0";
const FLAGS: [&str; 3] = ["-std=c++20", "-O2", "-fPIC"];
const FORMAT: &str = include_str!("shims/format.h");
const GAPS: &str = include_str!("shims/gaps.cpp");
const HALF: &str = include_str!("shims/half.rs");
/// Raised if the steps below change in another way than by the constants above.
const EDITION: u32 = 1;

pub fn set_up(workspace: &Workspace) -> Result<Ready> {
    let place = place(workspace)?;
    if !place.is_dir() {
        require(Command::new("python3").args(["-m", "pip", "--version"]), "Python 3 with pip")?;
        require(compiler().arg("--version"), "a C++ compiler (`c++`)")?;
        eprintln!("Setting up MLX, once: about a minute.");
        let work = workspace.target.join("mlx").join(format!("making-{}", std::process::id()));
        let made = Making { workspace, work: &work }.all().and_then(|made| {
            fs::rename(&made, &place)
                .with_context(|| format!("could not move {} to {}", made.display(), place.display()))
        });
        // What nothing needs any more; if it stays, only space is lost.
        if let Err(error) = fs::remove_dir_all(&work) {
            eprintln!("warning: could not remove {}: {error}", work.display());
        }
        made?;
    }
    configure(workspace, &place)?;
    Ok(Ready { libraries: files(&place.join("lib"), |_| true)? })
}

/// Where the result is kept. Whatever it depends on is in its name: cargo does not notice when a library changes
/// in its place.
fn place(workspace: &Workspace) -> Result<PathBuf> {
    let (version, _) = mlx_sys(workspace)?;
    let mut hash = DefaultHasher::new();
    (WHEELS, BINDGEN, BINDINGS_FOR, FLAGS, FORMAT, GAPS, HALF, EDITION, &version).hash(&mut hash);
    Ok(workspace.target.join("mlx").join(format!("linux-{version}-{:016x}", hash.finish())))
}

/// Version and folder of the package whose build script is replaced.
fn mlx_sys(workspace: &Workspace) -> Result<(String, PathBuf)> {
    let mut metadata = workspace.cargo();
    metadata.args([
        "metadata",
        "--format-version=1",
        "--filter-platform",
        TARGET,
        "--features",
        super::FEATURE,
    ]);
    let metadata: Value =
        serde_json::from_str(&process::output(&mut metadata)?).context("`cargo metadata` wrote no JSON")?;
    let package = items(&metadata["packages"]).find(|package| package["name"] == "mlx-sys");
    let package = package.context("the workspace has no package mlx-sys")?;
    let text = |key: &str| package[key].as_str().with_context(|| format!("cargo gave mlx-sys no {key}"));
    let folder = Path::new(text("manifest_path")?).parent().context("mlx-sys lies in no folder")?;
    Ok((text("version")?.to_owned(), folder.to_owned()))
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
}

struct Making<'a> {
    workspace: &'a Workspace,
    work: &'a Path,
}

impl Making<'_> {
    /// Returns the folder with everything in it: `lib`, `libmlxc.a`, `bindings.rs`.
    fn all(&self) -> Result<PathBuf> {
        let made = self.work.join("made");
        create(&made)?;
        let wheels = wheels(self.workspace, WHEELS, self.work)?;
        let (_, mlx_sys) = mlx_sys(self.workspace)?;
        let headers = mlx_sys.join("src/mlx-c");
        same_version(&headers)?;
        self.bindings(&headers, &wheels, &made.join("bindings.rs"))?;
        self.interface(&headers, &wheels.join("mlx/include"), &made.join("libmlxc.a"))?;
        self.libraries(&wheels, &made.join("lib"))?;
        Ok(made)
    }

    /// MLX and what it needs, flat: all of them are found by where the plugin looks.
    fn libraries(&self, wheels: &Path, to: &Path) -> Result<()> {
        create(to)?;
        for folder in [wheels.join("mlx/lib"), wheels.join("mlx_cpu.libs")] {
            for library in files(&folder, |name| name.contains(".so"))? {
                let name = library.file_name().context("a listed file has no name")?;
                fs::copy(&library, to.join(name))
                    .with_context(|| format!("could not copy {}", library.display()))?;
            }
        }
        Ok(())
    }

    fn bindings(&self, headers: &Path, wheels: &Path, to: &Path) -> Result<()> {
        let clang = wheels.join("libclang-18.1.1.data/platlib/clang/native");
        let builtin = process::output(compiler().arg("-print-file-name=include"))?;
        let mut arguments = vec!["-isystem".into(), builtin.trim().into()];
        arguments.push(format!("-I{}", headers.display()));
        let text = bindings(self.workspace, headers, &clang, &arguments, self.work)?;
        write(to, &(text + HALF))
    }

    /// Compiles the C interface to a static library.
    fn interface(&self, sources: &Path, mlx: &Path, to: &Path) -> Result<()> {
        let (format, gaps) = (self.work.join("format.h"), self.work.join("gaps.cpp"));
        write(&format, FORMAT)?;
        write(&gaps, GAPS)?;
        let mut units = files(&sources.join("mlx/c"), |name| name.ends_with(".cpp"))?;
        units.push(gaps);
        // The long ones first, so that no processor is left with one at the end.
        units.sort_by_key(|unit| std::cmp::Reverse(fs::metadata(unit).map_or(0, |data| data.len())));
        let object = |unit: &Path| self.work.join(unit.file_name().unwrap_or_default()).with_extension("o");
        let compile = |unit: &Path| {
            let mut compile = compiler();
            compile.args(FLAGS).arg("-I").arg(sources).arg("-I").arg(mlx).arg("-include").arg(&format);
            process::run(compile.arg("-c").arg(unit).arg("-o").arg(object(unit)))
        };
        in_parallel(&units, compile)?;
        let mut archive = Command::new("ar");
        archive.arg("rcs").arg(to).args(units.iter().map(|unit| object(unit)));
        process::run(&mut archive)
    }
}

/// Fetches wheels with pip and unpacks them all into one folder.
pub fn wheels(workspace: &Workspace, requirements: &str, work: &Path) -> Result<PathBuf> {
    let list = work.join("requirements.txt");
    write(&list, requirements)?;
    let cache = workspace.target.join("mlx/wheels");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(&list);
    process::run(pip.arg("--find-links").arg(&cache).arg("--dest").arg(&cache)).context(
        "the wheels of MLX could not be fetched with pip; they need x86-64 and glibc 2.35 or newer",
    )?;
    let unpacked = work.join("wheels");
    for requirement in requirements.lines().filter_map(|line| line.split_once("==")) {
        let (name, version) = (requirement.0.replace('-', "_"), requirement.1);
        let version = version.split_whitespace().next().unwrap_or_default();
        let start = format!("{name}-{version}-");
        let wheel = files(&cache, |file| file.starts_with(&start))?.pop();
        let wheel = wheel.with_context(|| format!("pip left no {start}*.whl in {}", cache.display()))?;
        let mut unpack = Command::new("python3");
        process::run(unpack.args(["-m", "zipfile", "--extract"]).args([&wheel, &unpacked]))?;
    }
    Ok(unpacked)
}

/// The C interface inside mlx-sys is of one version of MLX, the wheel must be of the same.
fn same_version(headers: &Path) -> Result<()> {
    let list = headers.join("CMakeLists.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("could not read {}", list.display()))?;
    let wanted = text.lines().find_map(|line| line.trim().strip_prefix("GIT_TAG v"));
    let wanted = wanted.map(|rest| rest.trim_end_matches(')')).unwrap_or("(unknown)");
    ensure!(
        WHEELS.contains(&format!("mlx-cpu=={wanted} ")),
        "mlx-sys is made for MLX {wanted}, and xtask/src/mlx/linux.txt names another: name that version there"
    );
    Ok(())
}

/// Runs bindgen as mlx-sys's build script does, over all headers of the C interface.
pub fn bindings(
    workspace: &Workspace,
    headers: &Path,
    clang: &Path,
    arguments: &[String],
    work: &Path,
) -> Result<String> {
    let all = work.join("all.h");
    let names = files(&headers.join("mlx/c"), |name| name.ends_with(".h"))?;
    let lines = names.iter().map(|header| format!("#include \"{}\"\n", header.display()));
    write(&all, &lines.collect::<String>())?;
    let mut run = Command::new(bindgen(workspace)?);
    run.env("LIBCLANG_PATH", clang).arg(&all).args(["--rust-target", BINDINGS_FOR]);
    run.args(["--blocklist-function", "malloc", "--blocklist-function", "realloc"]);
    process::output(run.arg("--").args(arguments))
}

/// The program, compiled once into the build directory.
fn bindgen(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("mlx").join(format!("bindgen-{BINDGEN}"));
    let program = root.join("bin/bindgen");
    if !program.is_file() {
        let mut install = workspace.cargo();
        install.args(["install", "--quiet", "--locked", "--debug", "bindgen-cli", "--version", BINDGEN]);
        process::run(install.arg("--root").arg(&root))?;
    }
    Ok(program)
}

/// Writes the cargo configuration that `.cargo/config.toml` includes, unless it says so already.
fn configure(workspace: &Workspace, place: &Path) -> Result<()> {
    let quoted = |path: &Path| -> Result<String> {
        let path = path.to_str().context("the build directory's path is not UTF-8")?;
        // JSON's strings are TOML's.
        Ok(serde_json::to_string(path)?)
    };
    let search = |path: &Path| -> Result<String> {
        let path = path.to_str().context("the build directory's path is not UTF-8")?;
        Ok(serde_json::to_string(&format!("native={path}"))?)
    };
    let libraries = place.join("lib");
    let text = format!(
        "# Written by `cargo xtask mlx`; stands in for the build script of mlx-sys.\n\
         [target.{TARGET}.mlx]\n\
         rustc-link-search = [{}, {}]\n\
         rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
         rustc-env = {{ OUT_DIR = {} }}\n\
         libs = {}\n",
        search(place)?,
        search(&libraries)?,
        quoted(place)?,
        quoted(&libraries)?
    );
    let file = workspace.root.join(".cargo/mlx.toml");
    if fs::read_to_string(&file).is_ok_and(|present| present == text) {
        return Ok(());
    }
    write(&file, &text)
}

/// Does `work` for each, on as many threads as there are processors.
fn in_parallel(units: &[PathBuf], work: impl Fn(&Path) -> Result<()> + Sync) -> Result<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || -> Result<()> {
        loop {
            let unit = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match units.get(unit) {
                Some(unit) => work(unit)?,
                None => return Ok(()),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&worker)).collect();
        for running in workers {
            match running.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread that compiles the C interface of MLX broke off"),
            }
        }
        Ok(())
    })
}

/// The files of a folder whose names are wanted, sorted.
fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

//! MLX for Linux: the library of a Python wheel, and the C interface compiled from the sources in mlx-sys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::sources::{self, bindings, create, files, mlx_sys, wheels, write};
use super::{Ready, configure, require};
use crate::process;
use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What pip is asked for, with the hashes.
const WHEELS: &str = include_str!("linux.txt");
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
        eprintln!("Setting up MLX, once: a minute or two.");
        sources::make(workspace, &place, |work| Making { workspace, work }.all())?;
    }
    configure(workspace, &configuration(&place)?)?;
    Ok(Ready { libraries: files(&place.join("lib"), |_| true)?, beside: Vec::new() })
}

/// Where the result is kept. Whatever it depends on is in its name: cargo does not notice when a library changes
/// in its place.
fn place(workspace: &Workspace) -> Result<PathBuf> {
    let recipe = (WHEELS, FLAGS, FORMAT, GAPS, HALF, EDITION);
    sources::place(workspace, "linux", TARGET, &recipe)
}

/// The C++ compiler.
pub fn compiler() -> Command {
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
        let (_, mlx_sys) = mlx_sys(self.workspace, TARGET)?;
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
        let builtin = process::output(compiler().arg("-print-file-name=include"))?;
        let mut arguments = vec!["-isystem".into(), builtin.trim().into()];
        arguments.push(format!("-I{}", headers.display()));
        let text = bindings(self.workspace, headers, wheels, &arguments, self.work)?;
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

/// What stands in for the build script of mlx-sys.
fn configuration(place: &Path) -> Result<String> {
    // JSON's strings are TOML's.
    let quoted = |before: &str, path: &Path| -> Result<String> {
        let path = path.to_str().context("the build directory's path is not UTF-8")?;
        Ok(serde_json::to_string(&format!("{before}{path}"))?)
    };
    let libraries = place.join("lib");
    Ok(format!(
        "[target.{TARGET}.mlx]\n\
         rustc-link-search = [{}, {}]\n\
         rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
         rustc-env = {{ OUT_DIR = {} }}\n\
         libs = {}\n",
        quoted("native=", place)?,
        quoted("native=", &libraries)?,
        quoted("", place)?,
        quoted("", &libraries)?
    ))
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
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for running in workers {
            match running.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread that compiles the C interface of MLX broke off"),
            }
        }
        Ok(())
    })
}

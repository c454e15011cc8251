//! Reads one exported byte string out of a dynamic library without loading it: ELF, Mach-O (thin and fat), PE.
//!
//! The file may be anything. Every read is bounded; the file is not mapped, because one that shrinks while it
//! is mapped would kill the process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;

use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
use object::read::{self, NameOrOrdinal};
use object::{Architecture, BinaryFormat, FileKind, Object, ObjectKind, ObjectSegment, ReadCache, ReadRef};

/// The largest single piece that is read, such as a symbol table.
const MAX_PIECE: u64 = 64 << 20;
/// All that is read of one file.
const MAX_TOTAL: u64 = 512 << 20;

/// Strings are read in blocks of so many bytes, or a table of millions of names would take millions of reads.
const BLOCK: u64 = 1 << 16;
/// The largest file that is looked at: every byte of a plugin is hashed.
const MAX_FILE: u64 = 4 << 30;

/// What is read of a library.
#[derive(Debug)]
pub(super) struct Contents {
    /// The string behind the symbol, up to its NUL and without it.
    pub text: Vec<u8>,
    pub needs: Needs,
}

/// The libraries that one cannot do without, as it names them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Needs {
    pub names: Vec<String>,
    /// Folders to search first: `DT_RPATH` or `LC_RPATH`.
    pub rpath: Vec<String>,
    /// `DT_RUNPATH`, which takes the other's place.
    pub runpath: Option<Vec<String>>,
}

/// The string behind the symbol, and what the library needs. Errors are ends of sentences that begin with the
/// file's name.
pub(super) fn read(file: File, symbol: &str, max_bytes: usize) -> Result<Contents, String> {
    read_for(Machine::native(), file, &|file, data| {
        Ok(Contents { text: find_string(file, data, symbol, max_bytes)?, needs: needs(file)? })
    })
}

/// Refuses what is too large for a plugin; it may claim any size and be full of holes.
pub(super) fn check_size(length: u64) -> Result<(), String> {
    match length > MAX_FILE {
        true => Err(format!("is larger than {} GiB, which no plugin is", MAX_FILE >> 30)),
        false => Ok(()),
    }
}

/// What a library for this system needs.
pub(super) fn read_needs(file: File) -> Result<Needs, String> {
    read_for(Machine::native(), file, &|file, _| needs(file))
}

/// What is done with a library for this system.
type Read<'r, T> = &'r dyn for<'a> Fn(&object::File<'a, Bounded<'a>>, Bounded<'a>) -> Result<T, String>;

/// What a library was built for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Machine {
    format: BinaryFormat,
    architecture: Architecture,
}

fn read_for<T>(machine: Machine, file: File, read: Read<'_, T>) -> Result<T, String> {
    let length = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
    if length == 0 {
        return Err("is empty".into());
    }
    check_size(length)?;
    let cache = ReadCache::new(file);
    let (left, blocks) = (Cell::new(MAX_TOTAL), RefCell::default());
    let data = Bounded { cache: &cache, left: &left, blocks: &blocks, start: 0, length };
    if length < 64 {
        return Err("is no dynamic library".into());
    }
    match FileKind::parse(data) {
        Ok(FileKind::MachOFat32) => {
            let fat = MachOFatFile32::parse(data).map_err(damaged)?;
            of_fat(machine, data, fat.arches(), read)
        }
        Ok(FileKind::MachOFat64) => {
            let fat = MachOFatFile64::parse(data).map_err(damaged)?;
            of_fat(machine, data, fat.arches(), read)
        }
        Ok(
            FileKind::Elf32
            | FileKind::Elf64
            | FileKind::MachO32
            | FileKind::MachO64
            | FileKind::Pe32
            | FileKind::Pe64,
        ) => of_thin(machine, data, read),
        _ => Err("is no dynamic library".into()),
    }
}

fn of_fat<A: FatArch, T>(
    machine: Machine,
    data: Bounded<'_>,
    arches: &[A],
    read: Read<'_, T>,
) -> Result<T, String> {
    if machine.format != BinaryFormat::MachO {
        return Err(machine.needs_system("macOS"));
    }
    let Some(arch) = arches.iter().find(|arch| arch.architecture() == machine.architecture) else {
        let names: Vec<_> = arches.iter().map(|arch| architecture_name(arch.architecture())).collect();
        return Err(machine.needs_processor(&names.join(" and ")));
    };
    let (start, length) = arch.file_range();
    let part = data.part(start, length).ok_or_else(cut)?;
    of_thin(machine, part, read)
}

fn of_thin<T>(machine: Machine, data: Bounded<'_>, read: Read<'_, T>) -> Result<T, String> {
    let file = object::File::parse(data).map_err(damaged)?;
    if file.format() != machine.format {
        return Err(machine.needs_system(system_of(file.format())));
    }
    if file.architecture() != machine.architecture {
        return Err(machine.needs_processor(&architecture_name(file.architecture())));
    }
    if let Some(system) = other_elf_system(&file) {
        return Err(machine.needs_system(&system));
    }
    if file.kind() != ObjectKind::Dynamic {
        return Err("is no dynamic library, but another kind of object file".into());
    }
    read(&file, data)
}

/// The system that an ELF file names, if it is not Linux. Most name none.
fn other_elf_system<'a>(file: &object::File<'a, Bounded<'a>>) -> Option<String> {
    use object::{FileFlags, elf};
    match file.flags() {
        FileFlags::Elf { os_abi, .. } => match os_abi {
            elf::ELFOSABI_SYSV | elf::ELFOSABI_GNU => None,
            elf::ELFOSABI_FREEBSD => Some("FreeBSD".into()),
            elf::ELFOSABI_NETBSD => Some("NetBSD".into()),
            elf::ELFOSABI_OPENBSD => Some("OpenBSD".into()),
            elf::ELFOSABI_SOLARIS => Some("Solaris".into()),
            other => Some(format!("a system with the number {other:?}")),
        },
        _ => None,
    }
}

fn needs<'a>(file: &object::File<'a, Bounded<'a>>) -> Result<Needs, String> {
    match file {
        object::File::Elf32(file) => elf_needs(file),
        object::File::Elf64(file) => elf_needs(file),
        object::File::MachO32(file) => macho_needs(file),
        object::File::MachO64(file) => macho_needs(file),
        // Windows says what is missing when it loads.
        _ => Ok(Needs::default()),
    }
}

fn elf_needs<'a, E: object::read::elf::FileHeader>(
    file: &object::read::elf::ElfFile<'a, E, Bounded<'a>>,
) -> Result<Needs, String> {
    use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH};
    let mut needs = Needs::default();
    let table = file.elf_dynamic_table().map_err(damaged)?;
    for entry in table.iter().filter(|entry| [DT_NEEDED, DT_RPATH, DT_RUNPATH].contains(&entry.tag)) {
        let text = String::from_utf8_lossy(table.string(entry).map_err(damaged)?).into_owned();
        // A folder without a name is the working directory.
        let folders = || text.split(':').filter(|_| !text.is_empty()).map(String::from);
        match entry.tag {
            DT_NEEDED => needs.names.push(text),
            DT_RPATH => needs.rpath.extend(folders()),
            _ => needs.runpath = Some(folders().collect()),
        }
    }
    Ok(needs)
}

fn macho_needs<'a, M: object::read::macho::MachHeader>(
    file: &object::read::macho::MachOFile<'a, M, Bounded<'a>>,
) -> Result<Needs, String> {
    use object::macho::{LC_LOAD_DYLIB, LC_REEXPORT_DYLIB};
    use object::read::macho::LoadCommandVariant;
    let mut needs = Needs::default();
    let endian = file.endian();
    let mut commands = file.macho_load_commands().map_err(damaged)?;
    while let Some(command) = commands.next().map_err(damaged)? {
        let text = |at| {
            let text = command.string(endian, at).map_err(damaged)?;
            Ok::<_, String>(String::from_utf8_lossy(text).into_owned())
        };
        match command.variant().map_err(damaged)? {
            LoadCommandVariant::Dylib(dylib)
                if [LC_LOAD_DYLIB, LC_REEXPORT_DYLIB].contains(&command.cmd()) =>
            {
                needs.names.push(text(dylib.dylib.name)?);
            }
            LoadCommandVariant::Rpath(rpath) => needs.rpath.push(text(rpath.path)?),
            _ => {}
        }
    }
    Ok(needs)
}

fn find_string<'a>(
    file: &object::File<'a, Bounded<'a>>,
    data: Bounded<'a>,
    symbol: &str,
    max_bytes: usize,
) -> Result<Vec<u8>, String> {
    for segment in file.segments() {
        let (offset, size) = segment.file_range();
        if offset.checked_add(size).is_none_or(|end| end > data.length) {
            return Err(cut());
        }
    }
    let name = if file.format() == BinaryFormat::MachO { format!("_{symbol}") } else { symbol.to_string() };
    let mut found = None;
    for export in file.exports().map_err(damaged)? {
        let export = export.map_err(damaged)?;
        if export.name() == NameOrOrdinal::Name(name.as_bytes())
            && let read::ExportTarget::Address { address } = export.target()
        {
            found = Some(address);
            break;
        }
    }
    let address = found.ok_or_else(|| format!("is no finetune plugin: it exports no symbol {symbol}"))?;
    string_at(file, data, address, max_bytes)
        .ok_or_else(|| format!("is damaged: its symbol {symbol} leads to no NUL-terminated text in the file"))
}

fn string_at<'a>(
    file: &object::File<'a, Bounded<'a>>,
    data: Bounded<'a>,
    address: u64,
    max_bytes: usize,
) -> Option<Vec<u8>> {
    for segment in file.segments() {
        let Some(inside) = address.checked_sub(segment.address()) else { continue };
        let (offset, size) = segment.file_range();
        let Some(left) = size.checked_sub(inside).filter(|&left| left > 0) else { continue };
        let bytes = data.read_bytes_at(offset.checked_add(inside)?, left.min(max_bytes as u64)).ok()?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        return Some(bytes[..end].to_vec());
    }
    None
}

fn damaged(error: object::Error) -> String {
    format!("is damaged or cut off: {error}")
}

fn cut() -> String {
    "is cut off: it is shorter than its own headers say".into()
}

impl Machine {
    fn native() -> Machine {
        let format = if cfg!(target_vendor = "apple") {
            BinaryFormat::MachO
        } else if cfg!(windows) {
            BinaryFormat::Pe
        } else {
            BinaryFormat::Elf
        };
        Machine { format, architecture: native_architecture() }
    }

    fn needs_system(self, system: &str) -> String {
        format!("is a library for {system}; this system needs one for {}", system_of(self.format))
    }

    fn needs_processor(self, name: &str) -> String {
        let needed = architecture_name(self.architecture);
        format!("is a library for {name} processors; this program needs one for {needed}")
    }
}

fn system_of(format: BinaryFormat) -> &'static str {
    match format {
        BinaryFormat::Elf => "Linux",
        BinaryFormat::MachO => "macOS",
        _ => "Windows",
    }
}

fn native_architecture() -> Architecture {
    match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        "x86" => Architecture::I386,
        "arm" => Architecture::Arm,
        "riscv64" => Architecture::Riscv64,
        "powerpc64" => Architecture::PowerPc64,
        "s390x" => Architecture::S390x,
        "loongarch64" => Architecture::LoongArch64,
        _ => Architecture::Unknown,
    }
}

fn architecture_name(architecture: Architecture) -> String {
    match architecture {
        Architecture::X86_64 => "x86-64".into(),
        Architecture::Aarch64 => "arm64".into(),
        Architecture::I386 => "32-bit x86".into(),
        Architecture::Unknown => "unknown".into(),
        other => format!("{other:?}"),
    }
}

/// Part of a file, of which only so much is read.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    cache: &'a ReadCache<File>,
    left: &'a Cell<u64>,
    /// Blocks that were read.
    blocks: &'a RefCell<BTreeSet<u64>>,
    start: u64,
    length: u64,
}

impl Bounded<'_> {
    fn part(self, start: u64, length: u64) -> Option<Self> {
        let end = start.checked_add(length)?;
        (end <= self.length).then(|| Bounded { start: self.start + start, length, ..self })
    }

    fn take(self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for Bounded<'a> {
    fn len(self) -> Result<u64, ()> {
        Ok(self.length)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        let end = offset.checked_add(size).ok_or(())?;
        if end > self.length || size > MAX_PIECE {
            return Err(());
        }
        self.take(size)?;
        self.cache.read_bytes_at(self.start + offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        if range.start > range.end || range.end > self.length {
            return Err(());
        }
        // A short string lies in the block that it begins in, or in the next.
        let at = self.start + range.start;
        let block = at / BLOCK * BLOCK;
        let size = (2 * BLOCK).min(self.start + range.end - block);
        if self.blocks.borrow_mut().insert(block) {
            self.take(size)?;
        }
        let bytes = &self.cache.read_bytes_at(block, size)?[(at - block) as usize..];
        if let Some(length) = bytes.iter().position(|&byte| byte == delimiter) {
            return Ok(&bytes[..length]);
        }
        let bytes = self.cache.read_bytes_at_until(at..self.start + range.end, delimiter)?;
        self.take(bytes.len() as u64 + 1)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const WINDOWS: Machine = Machine { format: BinaryFormat::Pe, architecture: Architecture::X86_64 };
    const MAC_ARM: Machine = Machine { format: BinaryFormat::MachO, architecture: Architecture::Aarch64 };
    const MAC_INTEL: Machine = Machine { format: BinaryFormat::MachO, architecture: Architecture::X86_64 };
    const LINUX: Machine = Machine { format: BinaryFormat::Elf, architecture: Architecture::X86_64 };

    fn read(machine: Machine, name: &str) -> Result<String, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries");
        let file = File::open(folder.join(name)).unwrap();
        let text = read_for(machine, file, &|file, data| {
            find_string(file, data, "finetune_plugin_manifest", 64 << 10)
        })?;
        Ok(String::from_utf8(text).unwrap())
    }

    /// Each format keeps its exports in its own way; `tests/libraries/make` says how the files were made.
    #[test]
    fn the_string_is_found_in_every_format() {
        for (machine, name) in [
            (WINDOWS, "windows-x86_64.dll"),
            (MAC_ARM, "macos-arm64.dylib"),
            (MAC_ARM, "macos-both.dylib"),
            (MAC_INTEL, "macos-both.dylib"),
        ] {
            assert_eq!(read(machine, name).as_deref(), Ok("{\"name\":\"foreign\"}"), "{name}");
        }
    }

    #[test]
    fn a_library_for_another_machine_is_said_to_be_one() {
        for (machine, name, part) in [
            (LINUX, "windows-x86_64.dll", "for Windows; this system needs one for Linux"),
            (LINUX, "macos-arm64.dylib", "for macOS; this system needs one for Linux"),
            (LINUX, "macos-both.dylib", "for macOS; this system needs one for Linux"),
            (WINDOWS, "macos-arm64.dylib", "for macOS; this system needs one for Windows"),
            (MAC_INTEL, "macos-arm64.dylib", "for arm64 processors; this program needs one for x86-64"),
        ] {
            let reason = read(machine, name).unwrap_err();
            assert!(reason.contains(part), "{name}: {reason}");
        }
    }
}

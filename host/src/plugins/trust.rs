//! Which files may be loaded at all: those that nobody but the user and root can have put there or changed.

use std::fs::{File, Metadata};
use std::path::Path;

/// Opens what is a regular file that only its owner may write, in folders of which the same holds. Opening never
/// waits: a fifo would keep the caller waiting, a device could do anything.
///
/// # Errors
/// The end of a sentence that begins with the file's name.
pub(super) fn open(path: &Path) -> Result<(File, Metadata), String> {
    // Looked at first, because opening a device already acts on it.
    check_kind(&look(path)?)?;
    let file = open_at_once(path).map_err(unreadable)?;
    // What counts is what was opened; the name may lead elsewhere by now.
    let metadata = file.metadata().map_err(unreadable)?;
    check_kind(&metadata)?;
    Ok((file, metadata))
}

/// Whether others than the user and root can change the file or put another in its place.
///
/// # Errors
/// The end of a sentence that begins with the file's name, with what mends it.
pub(super) fn check(path: &Path, file: &Metadata) -> Result<(), String> {
    #[cfg(unix)]
    return unix::check(path, file);
    #[cfg(not(unix))]
    {
        let _ = (path, file);
        Ok(())
    }
}

/// Whether others than the user and root can put something into a folder, or another in its place.
///
/// # Errors
/// The end of a sentence that begins with the folder's name.
pub(super) fn check_folder(path: &Path) -> Result<(), String> {
    #[cfg(unix)]
    return unix::check_folder(path);
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(())
    }
}

/// Whether the program runs with more rights than whoever started it: then the environment is a stranger's word.
pub fn privileges_are_raised() -> bool {
    #[cfg(unix)]
    return unix::privileges_are_raised();
    #[cfg(not(unix))]
    false
}

/// A variable of the environment, where the environment can be trusted.
pub(super) fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|_| !privileges_are_raised())
}

/// What a path leads to.
pub(super) fn look(path: &Path) -> Result<Metadata, String> {
    path.metadata().map_err(|error| match path.read_link() {
        Ok(to) => {
            format!("is a link that leads nowhere: {} does not exist or cannot be reached", to.display())
        }
        Err(_) => unreadable(error),
    })
}

fn check_kind(metadata: &Metadata) -> Result<(), String> {
    if metadata.is_dir() {
        return Err("is a folder, not a library".into());
    }
    if !metadata.is_file() {
        return Err("is a special file (a pipe, socket or device), not a library".into());
    }
    Ok(())
}

fn open_at_once(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    }
    options.open(path)
}

fn unreadable(error: std::io::Error) -> String {
    format!("cannot be read: {error}")
}

#[cfg(unix)]
mod unix {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ffi::OsString;
    use std::fs::Metadata;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Component, Path, PathBuf};

    const OTHERS: u32 = 0o002;
    const GROUP: u32 = 0o020;
    const STICKY: u32 = 0o1000;

    /// Links that are followed before a path is given up.
    const MAX_LINKS: usize = 40;

    pub(super) fn check(path: &Path, file: &Metadata) -> Result<(), String> {
        let mut way = Way::to(path)?;
        let searched = path.parent().and_then(|folder| folder.canonicalize().ok());
        for folder in [searched.as_deref(), way.end.parent()].into_iter().flatten() {
            way.folders.insert(folder.to_path_buf(), false);
        }
        match unsafe_entry(&way.end, &Entry::of(file), false) {
            Some(why) => Err(why),
            None => way.check(),
        }
    }

    pub(super) fn check_folder(path: &Path) -> Result<(), String> {
        let mut way = Way::to(path)?;
        way.folders.insert(way.end.clone(), false);
        way.check()
    }

    /// All that a path leads through: who can change any of it decides what the path means.
    #[derive(Default)]
    struct Way {
        links: BTreeSet<PathBuf>,
        /// Each with whether the sticky bit makes it safe: it keeps what is there from being replaced, but anyone may
        /// put something new there, so not in a folder in which candidates are looked for.
        folders: BTreeMap<PathBuf, bool>,
        end: PathBuf,
    }

    impl Way {
        fn check(&self) -> Result<(), String> {
            for link in &self.links {
                let metadata = link.symlink_metadata().map_err(super::unreadable)?;
                // A link has no permissions of its own; whoever it belongs to can put another in its place.
                if let Some(why) = belongs_to_another(link, metadata.uid()) {
                    return Err(format!("is reached by a link that {why}"));
                }
            }
            for (folder, sticky_is_safe) in &self.folders {
                let metadata = folder.metadata().map_err(super::unreadable)?;
                if let Some(why) = unsafe_entry(folder, &Entry::of(&metadata), *sticky_is_safe) {
                    return Err(format!("lies in a folder that is not safe: {} {why}", folder.display()));
                }
            }
            Ok(())
        }

        fn to(path: &Path) -> Result<Way, String> {
            let path = std::path::absolute(path).map_err(super::unreadable)?;
            let mut way = Way::default();
            let mut at = PathBuf::from("/");
            let mut left: Vec<OsString> = parts(&path);
            while let Some(part) = left.pop() {
                way.folders.entry(at.clone()).or_insert(true);
                if part == ".." {
                    at.pop();
                    continue;
                }
                let next = at.join(&part);
                if !next.symlink_metadata().map_err(super::unreadable)?.is_symlink() {
                    at = next;
                    continue;
                }
                let to = next.read_link().map_err(super::unreadable)?;
                way.links.insert(next);
                if way.links.len() > MAX_LINKS {
                    return Err("is reached by more links than are followed".into());
                }
                if to.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(parts(&to));
            }
            way.end = at;
            Ok(way)
        }
    }

    /// The last first.
    fn parts(path: &Path) -> Vec<OsString> {
        let parts = path.components().filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        let mut parts: Vec<OsString> = parts.collect();
        parts.reverse();
        parts
    }

    /// What decides who may write.
    #[derive(Clone, Copy)]
    pub(super) struct Entry {
        pub owner: u32,
        pub group: u32,
        pub mode: u32,
    }

    impl Entry {
        fn of(metadata: &Metadata) -> Entry {
            Entry { owner: metadata.uid(), group: metadata.gid(), mode: metadata.mode() }
        }
    }

    fn belongs_to_another(path: &Path, owner: u32) -> Option<String> {
        let me = rustix::process::geteuid().as_raw();
        (owner != me && owner != 0).then(|| {
            format!(
                "belongs to another user (number {owner}): take a copy of your own, or `chown {me} '{}'`",
                path.display()
            )
        })
    }

    /// In a sticky folder nobody can replace what belongs to others; but anyone may put something new there.
    pub(super) fn unsafe_entry(path: &Path, entry: &Entry, sticky_is_safe: bool) -> Option<String> {
        let &Entry { owner, group, mode } = entry;
        if let Some(why) = belongs_to_another(path, owner) {
            return Some(why);
        }
        if sticky_is_safe && mode & STICKY != 0 {
            return None;
        }
        if mode & OTHERS != 0 {
            return Some(format!("may be written by everyone: `chmod go-w '{}'` mends it", path.display()));
        }
        if mode & GROUP != 0 && !is_private_group(owner, group) {
            return Some(format!(
                "may be written by the group {group}: `chmod g-w '{}'` mends it",
                path.display()
            ));
        }
        None
    }

    /// Many systems give every user a group of the same name in which nobody else is.
    fn is_private_group(owner: u32, group: u32) -> bool {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        private_group(&read("/etc/passwd"), &read("/etc/group"), owner, group)
    }

    pub(super) fn private_group(passwd: &str, groups: &str, owner: u32, group: u32) -> bool {
        let users = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let Some(name) = users().find(|user| user.get(2) == Some(&owner.to_string().as_str())) else {
            return false;
        };
        let others_have_it = users()
            .any(|user| user.get(3) == Some(&group.to_string().as_str()) && user.first() != name.first());
        let entry = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mut entry = entry.filter(|entry| entry.get(2) == Some(&group.to_string().as_str()));
        let Some(entry) = entry.next() else { return false };
        let mut members = entry.get(3).unwrap_or(&"").split(',').filter(|member| !member.is_empty());
        entry.first() == name.first()
            && !others_have_it
            && members.all(|member| Some(&member) == name.first())
    }

    pub(super) fn privileges_are_raised() -> bool {
        use rustix::process::{getegid, geteuid, getgid, getuid};
        getuid() != geteuid() || getgid() != getegid() || kernel_says_so()
    }

    /// Linux tells a program that got rights from its file by `AT_SECURE`, and hides such a program's memory.
    fn kernel_says_so() -> bool {
        const AT_SECURE: usize = 23;
        const WORD: usize = size_of::<usize>();
        match std::fs::read("/proc/self/auxv") {
            Ok(bytes) => {
                let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or(0);
                bytes
                    .chunks_exact(2 * WORD)
                    .any(|pair| word(&pair[..WORD]) == AT_SECURE && word(&pair[WORD..]) != 0)
            }
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn allow(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn plugin() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("plugins");
        fs::create_dir(&inner).unwrap();
        allow(&inner, 0o755);
        let file = inner.join("a.so");
        fs::write(&file, "a").unwrap();
        allow(&file, 0o644);
        (folder, file)
    }

    fn verdict(file: &Path) -> Result<(), String> {
        let (_, metadata) = open(file)?;
        check(file, &metadata)
    }

    /// Whoever can change the file has the rights of whoever starts the program.
    #[test]
    fn what_others_may_write_is_refused_with_the_command_that_mends_it() {
        let (folder, file) = plugin();
        verdict(&file).unwrap();
        allow(&file, 0o646);
        let reason = verdict(&file).unwrap_err();
        assert!(reason.contains("everyone: `chmod go-w '") && reason.contains("a.so'` mends it"), "{reason}");
        allow(&file, 0o644);
        let inner = file.parent().unwrap();
        allow(inner, 0o777);
        let reason = verdict(&file).unwrap_err();
        assert!(
            reason.contains("lies in a folder that is not safe") && reason.contains("chmod go-w"),
            "{reason}"
        );
        // The sticky bit does not keep a new file out of the folder itself, but it keeps an ancestor's entries.
        allow(inner, 0o1777);
        assert!(verdict(&file).is_err());
        allow(inner, 0o755);
        allow(folder.path(), 0o1777);
        verdict(&file).unwrap();
        allow(folder.path(), 0o777);
        assert!(verdict(&file).is_err());
    }

    /// A link is as safe as both the folder that it lies in and what it leads to.
    #[test]
    fn a_link_out_of_a_safe_folder_does_not_help() {
        let (_folder, target) = plugin();
        let (_other, beside) = plugin();
        let link = beside.with_file_name("link.so");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        verdict(&link).unwrap();
        allow(target.parent().unwrap(), 0o777);
        assert!(verdict(&link).is_err());
    }

    /// Whoever can change a link on the way decides where the path leads, also after it was looked at.
    #[test]
    fn every_link_and_folder_on_the_way_counts() {
        let (_folder, target) = plugin();
        let (way, beside) = plugin();
        let open = way.path().join("open");
        fs::create_dir(&open).unwrap();
        // safe/link.so -> open/second.so -> safe/a.so
        std::os::unix::fs::symlink(&target, open.join("second.so")).unwrap();
        let link = beside.with_file_name("link.so");
        std::os::unix::fs::symlink(open.join("second.so"), &link).unwrap();
        // A folder that is a link: safe/folder -> open/folder -> safe
        std::os::unix::fs::symlink(target.parent().unwrap(), open.join("folder")).unwrap();
        std::os::unix::fs::symlink("../open/folder", beside.with_file_name("folder")).unwrap();
        let through = beside.with_file_name("folder").join("a.so");
        for mode in [0o755, 0o1777] {
            allow(&open, mode);
            verdict(&link).unwrap();
            verdict(&through).unwrap();
        }
        allow(&open, 0o777);
        for path in [&link, &through] {
            let reason = verdict(path).unwrap_err();
            assert!(reason.contains("not safe") && reason.contains("open'` mends it"), "{reason}");
        }
        let round = beside.with_file_name("round.so");
        std::os::unix::fs::symlink("round.so", &round).unwrap();
        assert!(verdict(&round).unwrap_err().contains("leads nowhere"));
    }

    /// A group counts as everyone, unless nobody else is in it: the rule itself, whoever runs this.
    #[test]
    fn what_a_group_may_write_is_refused_with_the_command_that_mends_it() {
        let me = rustix::process::geteuid().as_raw();
        let verdict = |owner, mode, sticky_is_safe| {
            let entry = unix::Entry { owner, group: 4_000_000_000, mode };
            unix::unsafe_entry(Path::new("/p/a.so"), &entry, sticky_is_safe)
        };
        assert_eq!(verdict(me, 0o100_755, false), None);
        assert_eq!(verdict(0, 0o100_755, false), None);
        let reason = verdict(me, 0o100_775, false).unwrap();
        assert!(reason.contains("group 4000000000: `chmod g-w '/p/a.so'` mends it"), "{reason}");
        assert!(verdict(me, 0o41_777, false).is_some() && verdict(me, 0o41_777, true).is_none());
        let reason = verdict(4_000_000_000, 0o100_755, false).unwrap();
        assert!(reason.contains("belongs to another user"), "{reason}");
        // The sticky bit does not keep the folder's owner out.
        assert!(verdict(4_000_000_000, 0o41_777, true).is_some());
    }

    #[test]
    fn a_group_of_ones_own_is_private() {
        let passwd = "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:\nyou:x:1001:100::/:\nit:x:1002:1002::/:\n";
        let groups = "root:x:0:\nusers:x:100:me,you\nme:x:1000:\nit:x:1002:it,you\n";
        let private = |owner, group| unix::private_group(passwd, groups, owner, group);
        assert!(private(1000, 1000) && private(0, 0));
        assert!(!private(1000, 100) && !private(1001, 100) && !private(1002, 1002) && !private(5, 5));
    }
}

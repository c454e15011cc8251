use tempfile::tempdir;

use super::*;
use crate::weights::testing::{put, refused};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder is not to be seen before it is committed, and is complete after.
#[test]
fn folder_appears_whole() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("runs/step-1");
    let folder = AtomicDir::create(&target).unwrap();
    put(folder.path(), "a", "1");
    fs::create_dir(folder.path().join("sub")).unwrap();
    put(&folder.path().join("sub"), "b", "2");
    assert!(!target.exists());
    folder.commit().unwrap();
    assert_eq!(names(&target), ["a", "sub"]);
    assert_eq!(names(&dir.path().join("runs")), ["step-1"]);
}

/// A folder that is there is replaced with all that is in it, and nothing is left beside it.
#[test]
fn folder_replaces_folder() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("out");
    fs::create_dir(&target).unwrap();
    put(&target, "old", "");
    let folder = AtomicDir::create(&target).unwrap();
    put(folder.path(), "new", "");
    assert_eq!(names(&target), ["old"]);
    folder.commit().unwrap();
    assert_eq!(names(&target), ["new"]);
    assert_eq!(names(dir.path()), ["out"]);
}

/// Dropped without a commit (an error, a panic), a folder or file leaves nothing, and an older one stays.
#[test]
fn dropped_leaves_nothing() {
    let dir = tempdir().unwrap();
    put(dir.path(), "file", "old");
    let folder = AtomicDir::create(&dir.path().join("out")).unwrap();
    put(folder.path(), "a", "");
    let mut file = AtomicFile::create(&dir.path().join("file")).unwrap();
    file.write_all(b"new").unwrap();
    drop((folder, file));
    assert_eq!(names(dir.path()), ["file"]);
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
}

/// A file replaces a file, and a mapped or opened old one keeps its content.
#[cfg(unix)]
#[test]
fn file_replaces_file() {
    use std::io::Read;
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    write_file(&path, b"old").unwrap();
    let mut opened = File::open(&path).unwrap();
    write_file(&path, b"new").unwrap();
    let mut content = String::new();
    opened.read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), fs::read(&path).unwrap().as_slice()), ("old", &b"new"[..]));
    assert_eq!(names(dir.path()), ["file"]);
}

/// After a kill between the two renames the old folder is put back; what was being written is removed; other
/// names, even alike ones, are left alone.
#[test]
fn recover_after_a_kill() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("out");
    for name in [".out.old-77-0", ".out.tmp-77-1", ".out2.tmp-77-2", "out.tmp-1"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        put(&dir.path().join(name), "content", name);
    }
    recover(&target).unwrap();
    assert_eq!(fs::read(target.join("content")).unwrap(), b".out.old-77-0");
    assert_eq!(names(dir.path()), [".out2.tmp-77-2", "out", "out.tmp-1"]);
}

/// After a kill behind both renames the new folder stays and the old one is removed.
#[test]
fn recover_keeps_the_new() {
    let dir = tempdir().unwrap();
    for name in ["out", ".out.old-77-0"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        put(&dir.path().join(name), "content", name);
    }
    recover(&dir.path().join("out")).unwrap();
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(fs::read(dir.path().join("out/content")).unwrap(), b"out");
    recover(&dir.path().join("none/out")).unwrap();
}

/// In a container every process has the number of the one that was killed before it: what that one left must not be
/// in the way.
#[test]
fn leftovers_of_a_process_of_the_same_number_are_not_in_the_way() {
    let dir = tempdir().unwrap();
    let target = dir.path().join("out");
    fs::create_dir(&target).unwrap();
    for kind in [TEMPORARY, REPLACED] {
        for number in 0..200 {
            let left = dir.path().join(format!(".out.{kind}-{}-{number}", std::process::id()));
            fs::create_dir(&left).unwrap();
            put(&left, "content", "left");
        }
    }
    let folder = AtomicDir::create(&target).unwrap();
    put(folder.path(), "new", "");
    folder.commit().unwrap();
    assert_eq!(names(&target), ["new"]);
    fs::remove_dir_all(&target).unwrap();
    write_file(&target, b"new").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");
}

/// What cannot become a folder is refused before anything is written.
#[test]
fn impossible_targets_are_refused() {
    let dir = tempdir().unwrap();
    put(dir.path(), "file", "");
    refused(AtomicDir::create(&dir.path().join("file")), &["file is there already and is not a folder"]);
    refused(AtomicDir::create(&dir.path().join("file/out")), &["cannot create"]);
    refused(AtomicDir::create(Path::new("/")), &["/"]);
    refused(AtomicFile::create(&dir.path().join("none/file")), &["cannot create"]);
    assert_eq!(names(dir.path()), ["file"]);
}

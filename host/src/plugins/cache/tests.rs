use super::*;

fn entry(path: &Path, reason: &str) -> Entry {
    let text = |text: &str| text.to_string();
    Entry {
        stamp: Stamp::of(&path.metadata().unwrap()),
        sha256: sha256(File::open(path).unwrap()).unwrap(),
        surroundings: text("here"),
        when: 1,
        manifest: Manifest {
            name: text("a"),
            version: text("1"),
            api: text("1.0.0"),
            vendor: text("v"),
            license: text("l"),
            description: text("d"),
        },
        report: ProbeReport::refused(reason),
        waited: None,
        needs: Vec::new(),
        measured: BTreeMap::new(),
    }
}

fn find(folder: &Path, file: &Path, surroundings: &str) -> Option<Entry> {
    Cache::read(Some(folder)).find(file, &file.metadata().unwrap(), surroundings)
}

/// An answer that no longer holds would be worse than none.
#[test]
fn an_entry_holds_for_the_same_contents_in_the_same_surroundings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.so");
    fs::write(&file, "one").unwrap();
    let mut cache = Cache::read(Some(folder.path()));
    cache.set(&file, Some(entry(&file, "crashed")));
    cache.write();
    assert!(find(folder.path(), &file, "here").is_some());
    assert!(find(folder.path(), &file, "elsewhere").is_none());
    // Written anew with the same bytes: another time and perhaps another place, the same plugin.
    fs::remove_file(&file).unwrap();
    fs::write(&file, "one").unwrap();
    assert!(find(folder.path(), &file, "here").is_some());
    fs::write(&file, "two").unwrap();
    assert!(find(folder.path(), &file, "here").is_none());
}

#[test]
fn a_needed_library_that_is_gone_ends_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let [file, needed] = ["a.so", "libneeded.so"].map(|name| folder.path().join(name));
    fs::write(&file, "one").unwrap();
    fs::write(&needed, "two").unwrap();
    let mut cache = Cache::read(Some(folder.path()));
    let needs = vec![(AnyPath(needed.clone()), Stamp::of(&needed.metadata().unwrap()))];
    cache.set(&file, Some(Entry { needs, ..entry(&file, "r") }));
    cache.write();
    assert!(find(folder.path(), &file, "here").is_some());
    fs::remove_file(&needed).unwrap();
    assert!(find(folder.path(), &file, "here").is_none());
}

#[test]
fn a_damaged_cache_is_empty_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.so");
    fs::write(&file, "one").unwrap();
    let write = || {
        let mut cache = Cache::read(Some(folder.path()));
        cache.set(&file, Some(entry(&file, "r")));
        cache.write();
        assert!(find(folder.path(), &file, "here").is_some());
    };
    write();
    let good = fs::read(folder.path().join(FILE)).unwrap();
    let flipped = (0..good.len()).step_by(7).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let cut = (0..good.len()).step_by(29).map(|length| good[..length].to_vec());
    let other = [&b"{}"[..], b"{\"format\":99,\"sha256\":\"\"}\n{}", b"\n\n"].map(<[u8]>::to_vec);
    for (i, damage) in flipped.chain(cut).chain(other).enumerate() {
        fs::write(folder.path().join(FILE), &damage).unwrap();
        let text = String::from_utf8_lossy(&damage).into_owned();
        assert!(find(folder.path(), &file, "here").is_none(), "believed: {text:?}");
        if i % 16 == 0 {
            write();
        }
    }
    write();
    let mut cache = Cache::read(Some(folder.path()));
    assert_eq!((cache.forget("b"), cache.forget("a")), (0, 1));
    cache.write();
    assert!(find(folder.path(), &file, "here").is_none());
}

/// A bad place costs time, no more: nothing is written where others could have put something, and nobody is waited
/// for who does not go on.
#[cfg(unix)]
#[test]
fn a_folder_of_others_and_a_lock_that_is_kept_are_done_without() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.so");
    fs::write(&file, "one").unwrap();
    let write = || {
        let mut cache = Cache::read(Some(folder.path()));
        cache.set(&file, Some(entry(&file, "r")));
        cache.write();
        folder.path().join(FILE).exists()
    };
    let lock = File::create(folder.path().join("plugins.lock")).unwrap();
    lock.lock().unwrap();
    assert!(!write());
    drop(lock);
    for mode in [0o777, 0o1777] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(!write(), "{mode:o}");
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(write());
}

/// Two hosts that measured different things of one plugin.
#[test]
fn measurements_of_several_hosts_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.so");
    fs::write(&file, "one").unwrap();
    let speed = |tokens_per_s| Measured::Speed(Speed { tokens_per_s, native: Vec::new(), plan: None });
    let [mut one, mut other] = [(), ()].map(|()| Cache::read(Some(folder.path())));
    for (cache, dtype) in [(&mut one, "f32"), (&mut other, "bf16")] {
        cache.set(&file, Some(entry(&file, "r")));
        cache.add_measured(&file, measurement_key(0, dtype), speed(5.0));
    }
    one.write();
    other.write();
    let found = find(folder.path(), &file, "here").unwrap();
    assert_eq!(found.measured.keys().collect::<Vec<_>>(), ["0/bf16", "0/f32"]);
}

/// Each host adds what it learned to what the others wrote.
#[test]
fn several_hosts_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..16).map(|i| folder.path().join(format!("{i}.so"))).collect();
    std::thread::scope(|scope| {
        for file in &files {
            let folder = folder.path();
            scope.spawn(move || {
                let mut cache = Cache::read(Some(folder));
                fs::write(file, "x").unwrap();
                cache.set(file, Some(entry(file, "r")));
                cache.write();
            });
        }
    });
    let cache = Cache::read(Some(folder.path()));
    assert!(files.iter().all(|file| cache.find(file, &file.metadata().unwrap(), "here").is_some()));
}

/// A file whose name is not Unicode has an entry as others do.
#[cfg(target_os = "linux")]
#[test]
fn any_path_has_an_entry_and_can_be_forgotten() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(std::ffi::OsStr::from_bytes(b"b\xff.so"));
    fs::write(&file, "one").unwrap();
    assert_eq!(path_of(&entry_key(&file)), file);
    assert_eq!(path_of(&entry_key(folder.path())), folder.path());
    let mut cache = Cache::read(Some(folder.path()));
    let needs = vec![(AnyPath(file.clone()), Stamp::of(&file.metadata().unwrap()))];
    cache.set(&file, Some(Entry { needs, ..entry(&file, "r") }));
    cache.write();
    assert!(find(folder.path(), &file, "here").is_some());
    let mut cache = Cache::read(Some(folder.path()));
    assert_eq!(cache.forget("b\u{fffd}.so"), 1);
    cache.write();
    assert!(find(folder.path(), &file, "here").is_none());
}

/// A setting that has no effect is said to have none.
#[cfg(all(unix, not(target_os = "macos")))]
#[test]
fn a_folder_that_cannot_be_used_is_told_of() {
    let with = |variables: &[(&str, &'static str)]| {
        let variables: BTreeMap<String, OsString> =
            variables.iter().map(|(name, value)| (name.to_string(), value.into())).collect();
        folder_from(|name| variables.get(name).cloned())
    };
    assert_eq!(with(&[(FOLDER_VARIABLE, "/c")]), (Some("/c".into()), None));
    for empty in [&[("HOME", "/me")][..], &[("HOME", "/me"), (FOLDER_VARIABLE, "")]] {
        assert_eq!(with(empty), (Some("/me/.cache/finetune".into()), None));
    }
    let (folder, warning) = with(&[("XDG_CACHE_HOME", "/x"), (FOLDER_VARIABLE, "c/d")]);
    assert_eq!(folder.unwrap(), Path::new("/x/finetune"));
    let warning = warning.unwrap();
    assert_eq!(
        warning,
        "FINETUNE_CACHE_DIR names the folder c/d, which must be absolute; /x/finetune is used instead"
    );
    for nothing in [&[][..], &[("HOME", "me")], &[("HOME", ""), (FOLDER_VARIABLE, "c")]] {
        let (folder, warning) = with(nothing);
        let warning = warning.unwrap();
        assert!(folder.is_none() && warning.contains("is not kept"), "{warning}");
        assert_eq!(warning.contains("must be absolute"), nothing.len() == 2, "{warning}");
    }
}

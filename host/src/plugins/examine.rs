//! From a file to its row: what is remembered of it, or what it and its code say now.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use crate::any_path::AnyPath;

use super::cache::{self, Cache, Entry, Stamp};
use super::manifest;
use super::prober::Prober;
use super::row::{Row, Status};
use super::{needs, trust};

/// Rows in the order of the files, each with what is to be kept of it.
pub(super) fn examine_all(
    paths: Vec<PathBuf>,
    prober: &Prober,
    cache: &Cache,
    surroundings: &str,
) -> Vec<(Row, Option<Entry>)> {
    // Asking is mostly waiting, for a driver or a deadline.
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(4, 16));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(path) = paths.get(index) else { return done };
            let examined = guarded(|| examine(path, prober, cache, surroundings));
            done.push((index, examined.unwrap_or_else(|reason| (refused(path, reason), None))));
        }
    };
    let mut rows = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(paths.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Does what is done with one file so that a fault of ours in it does not cost the others.
///
/// # Errors
/// It panicked, of which was told where it happened: the end of a sentence that begins with the file's name.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        "cannot be examined: an internal error of finetune, which is told of above; please report it".into()
    })
}

fn refused(path: &Path, reason: String) -> Row {
    Row { reason: Some(reason), ..Row::of(path.to_path_buf()) }
}

fn examine(path: &Path, prober: &Prober, cache: &Cache, surroundings: &str) -> (Row, Option<Entry>) {
    let mut row = Row::of(path.to_path_buf());
    let entry = match look(&mut row, prober, cache, surroundings) {
        Ok(entry) => entry,
        Err(reason) => {
            row.reason = Some(reason);
            None
        }
    };
    match row.status {
        Status::Ready => tracing::info!("{}", row.explanation()),
        _ => tracing::info!("not used: {}", row.explanation()),
    }
    (row, entry)
}

/// Fills the row in. What a file says at a glance is never remembered; an answer of its code is.
fn look(row: &mut Row, prober: &Prober, cache: &Cache, surroundings: &str) -> Result<Option<Entry>, String> {
    let path = row.path.clone();
    let metadata = trust::look(&path)?;
    if metadata.is_file() {
        trust::check(&path, &metadata)?;
    }
    // One that was too slow is asked again where it is given longer.
    row.stamp = Some(Stamp::of(&metadata));
    let known = cache.find(&path, &metadata, surroundings);
    let known = known.filter(|entry| entry.waited.is_none_or(|waited| waited >= prober.timeout));
    if let Some(entry) = known {
        row.know(&entry.manifest, &entry.sha256);
        row.take(&entry.report);
        row.remembered = (row.status == Status::Refused).then_some(entry.when);
        for device in &mut row.devices {
            device.recall(&entry);
        }
        return Ok(Some(entry));
    }
    let (file, metadata) = trust::open(&path)?;
    trust::check(&path, &metadata)?;
    let again = file.try_clone().map_err(|error| format!("cannot be read: {error}"))?;
    let (manifest, needed) = manifest::read_from(file)?;
    row.know(&manifest, "");
    manifest::check_api(&manifest.api)?;
    let needs = needs::resolve(&path, needed)?;
    row.sha256 = hash(again).map_err(|error| format!("cannot be read: {error}"))?;
    let asked = prober.probe(&path, &manifest);
    let stamp = Stamp::of(&metadata);
    if trust::look(&path).map(|now| Stamp::of(&now)) != Ok(stamp) {
        return Err("was changed while it was asked for its devices: ask again".into());
    }
    row.stamp = Some(stamp);
    row.take(&asked.report);
    Ok(asked.report.is_lasting().then(|| Entry {
        stamp,
        sha256: row.sha256.clone(),
        surroundings: surroundings.into(),
        when: cache::now(),
        manifest,
        report: asked.report,
        waited: asked.waited,
        needs: needs.into_iter().map(|(path, stamp)| (AnyPath(path), stamp)).collect(),
        measured: Default::default(),
    }))
}

/// From the beginning, wherever the file was read last.
fn hash(mut file: std::fs::File) -> std::io::Result<String> {
    std::io::Seek::rewind(&mut file)?;
    cache::sha256(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_one_file_is_a_reason_of_that_file() {
        let names = ["a", "b", "c"].map(|name| guarded(|| if name == "b" { panic!("b") } else { name }));
        assert_eq!((&names[0], &names[2]), (&Ok("a"), &Ok("c")));
        let row = refused(Path::new("/b.so"), names[1].clone().expect_err("a reason"));
        assert_eq!(row.status, Status::Refused);
        assert!(row.explanation().starts_with("/b.so cannot be examined: "), "{}", row.explanation());
    }
}

use super::super::Prefetch;
use super::super::fixtures::{bpe, file};
use super::*;
use tempfile::TempDir;

/// `n` rows of growing length.
fn dataset(n: usize) -> (TempDir, Arc<Dataset>) {
    let rows: Vec<String> =
        (0..n).map(|i| format!("{{\"text\": \"{}\"}}", "the cat ".repeat(i + 1))).collect();
    let (dir, path) = file("rows.jsonl", rows.join("\n"));
    let dataset = Dataset::open(&path, &bpe(), 16).unwrap();
    (dir, Arc::new(dataset))
}

fn options(batch: usize, micro_batch: usize) -> LoaderOptions {
    LoaderOptions { batch, micro_batch, seed: 1, shuffle: true, epochs: None }
}

/// The real rows of batches, without padding: (index in the batch, inputs, targets).
fn real_rows(batches: &[Batch]) -> Vec<(u32, Vec<u32>, Vec<u32>)> {
    let mut rows = vec![];
    for batch in batches {
        for row in 0..batch.rows {
            let at = row * batch.len..row * batch.len + batch.valid[row] as usize;
            if batch.weights[at.clone()].iter().any(|&w| w > 0.0) {
                rows.push((
                    batch.example[row],
                    batch.tokens[at.clone()].to_vec(),
                    batch.targets[at].to_vec(),
                ));
            }
        }
    }
    rows
}

/// The same examples with the same numbers, however the batch is split.
#[test]
fn the_split_into_micro_batches_changes_nothing_but_padding() {
    let (_dir, data) = dataset(13);
    let whole = Loader::new(data, options(8, 8)).unwrap();
    for micro in [1, 2, 3, 5, 100] {
        let split = whole.with_micro_batch(micro).unwrap();
        for step in 0..5 {
            let batches = split.step(step).unwrap();
            assert_eq!(batches.len(), 8usize.div_ceil(micro));
            assert!(batches.iter().all(|b| b.rows == micro.min(8)));
            assert_eq!(real_rows(&batches), real_rows(&whole.step(step).unwrap()));
            let sum = |batches: &[Batch]| batches.iter().map(|b| b.target_tokens).sum::<u64>();
            assert_eq!(sum(&batches), sum(&whole.step(step).unwrap()));
        }
    }
}

/// Batches run across the end of an epoch, so that every epoch draws every row once.
#[test]
fn steps_draw_every_row_once_an_epoch() {
    let (_dir, data) = dataset(5);
    let loader = Loader::new(data.clone(), options(3, 2)).unwrap();
    let drawn: Vec<Vec<u32>> =
        (0..5).flat_map(|step| real_rows(&loader.step(step).unwrap())).map(|(_, tokens, _)| tokens).collect();
    let mut file: Vec<Vec<u32>> =
        (0..5).map(|i| data.example(i).unwrap()).map(|e| e.tokens[..e.inputs()].to_vec()).collect();
    file.sort();
    for epoch in drawn.chunks(5) {
        let mut epoch = epoch.to_vec();
        epoch.sort();
        assert_eq!(epoch, file);
    }
    let unshuffled = Loader::new(data, LoaderOptions { shuffle: false, ..options(3, 3) }).unwrap();
    let first: Vec<_> = (0..2).flat_map(|s| real_rows(&unshuffled.step(s).unwrap())).collect();
    assert_eq!(first[0].1, first[5].1, "row 0 comes again after row 4");
    assert_ne!(first[0].1, first[4].1);
}

#[test]
fn epochs_end_with_a_short_batch() {
    let (_dir, data) = dataset(5);
    let loader = Loader::new(data, LoaderOptions { epochs: Some(2), ..options(4, 3) }).unwrap();
    assert_eq!(loader.steps(), Some(3));
    let rows = |step| real_rows(&loader.step(step).unwrap()).len();
    assert_eq!((rows(0), rows(1), rows(2), rows(3), rows(u64::MAX)), (4, 4, 2, 0, 0));
    let last = loader.step(2).unwrap();
    assert_eq!((last.len(), last[0].rows), (1, 3), "filled, not reshaped; no empty micro-batch");
    assert!(loader.step(3).unwrap().is_empty());
}

/// A micro-batch is as long as its own longest example needs, never longer than the largest bucket.
#[test]
fn lengths_come_from_buckets() {
    let (_dir, data) = dataset(20);
    let loader = Loader::new(data, LoaderOptions { shuffle: false, ..options(20, 1) }).unwrap();
    let mut lengths = vec![];
    for batch in loader.step(0).unwrap() {
        assert!(loader.buckets().lengths().contains(&batch.len));
        assert!(batch.valid[0] as usize <= batch.len && batch.len < batch.valid[0] as usize + 2);
        lengths.push(batch.len);
    }
    assert_eq!((lengths.first() < lengths.last(), lengths.last()), (true, Some(&16)));
}

#[test]
fn evaluation_sees_the_file_once_in_order() {
    let (_dir, data) = dataset(7);
    let batches = EvalBatches::new(&data, 3).unwrap();
    assert_eq!(batches.batches(), 3);
    let batches: Vec<Batch> = batches.collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.iter().map(|b| b.rows).collect::<Vec<_>>(), [3, 3, 3]);
    let seen: Vec<_> = real_rows(&batches).into_iter().map(|(_, tokens, _)| tokens).collect();
    let file: Vec<_> = (0..7).map(|i| data.example(i).unwrap()).collect();
    assert_eq!(seen, file.iter().map(|e| e.tokens[..e.inputs()].to_vec()).collect::<Vec<_>>());
    let targets: u64 = file.iter().map(|e| e.targets()).sum();
    assert_eq!(batches.iter().map(|b| b.target_tokens).sum::<u64>(), targets);
}

#[test]
fn sizes_of_zero_are_refused() {
    let (_dir, data) = dataset(2);
    for bad in [options(0, 1), options(1, 0), LoaderOptions { epochs: Some(0), ..options(1, 1) }] {
        assert!(Loader::new(data.clone(), bad).unwrap_err().to_string().contains("at least 1"));
    }
    assert!(EvalBatches::new(&data, 0).is_err());
}

#[test]
fn prefetching_gives_the_same_steps_from_any_start_and_ends() {
    let (_dir, data) = dataset(9);
    let loader = Loader::new(data, LoaderOptions { epochs: Some(3), ..options(4, 2) }).unwrap();
    for first in [0, 3, 6] {
        let steps: Vec<_> =
            Prefetch::start(loader.clone(), first).unwrap().collect::<Result<_, _>>().unwrap();
        let expected: Vec<_> = (first..7).map(|step| (step, loader.step(step).unwrap())).collect();
        assert_eq!(steps, expected);
    }
}

/// A run that stops early must not hang on the thread, nor the thread on the full channel.
#[test]
fn a_dropped_prefetch_stops() {
    let (_dir, data) = dataset(3);
    let loader = Loader::new(data.clone(), options(1, 1)).unwrap();
    let mut prefetch = Prefetch::start(loader, 0).unwrap();
    assert!(prefetch.next().unwrap().is_ok());
    drop(prefetch);
    assert_eq!(Arc::strong_count(&data), 1, "the thread is gone");
}

#[test]
fn prefetching_passes_an_error_on_and_ends() {
    let (dir, data) = dataset(50);
    let loader = Loader::new(data, LoaderOptions { shuffle: false, ..options(1, 1) }).unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), "").unwrap();
    let steps: Vec<_> = Prefetch::start(loader, 0).unwrap().collect();
    assert_eq!(steps.len(), 1);
    assert!(steps[0].as_ref().unwrap_err().to_string().contains("changed"));
}

/// Memory is planned by these: a length that is missing would be a run above its bound, one too many a bound
/// above the run.
#[test]
fn lengths_are_those_that_batches_will_have() {
    let (_dir, data) = dataset(5);
    let loader = Loader::new(data.clone(), LoaderOptions { shuffle: false, ..options(1, 1) }).unwrap();
    let of_steps = |steps: u64| -> Vec<usize> {
        let batches = (0..steps).flat_map(|step| loader.step(step).unwrap());
        let seen: BTreeSet<usize> = batches.map(|batch| batch.len).collect();
        seen.into_iter().collect()
    };
    for steps in [1, 2, 3, 5] {
        assert_eq!(loader.lengths(steps).unwrap(), of_steps(steps), "{steps} steps");
    }
    // A run without end over few short rows: each was seen, so no longer one can come.
    let endless = loader.lengths(u64::MAX).unwrap();
    assert_eq!(endless.last(), of_steps(5).last());
    assert!(endless.last() < loader.buckets().lengths().last());
    let whole: BTreeSet<usize> =
        EvalBatches::new(&data, 2).unwrap().map(|batch| batch.unwrap().len).collect();
    assert_eq!(EvalBatches::lengths(&data, 2).unwrap(), whole.into_iter().collect::<Vec<_>>());
}

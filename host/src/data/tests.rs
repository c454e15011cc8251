use super::fixtures::{bpe, file};
use super::*;

#[test]
fn the_extension_decides_what_a_file_is() {
    let row = "{\"text\": \"the cat\"}\n{\"text\": \"sat\"}\n";
    for name in ["a.jsonl", "a.JSONL", "a.json", "a.ndjson"] {
        let (_dir, path) = file(name, row);
        assert_eq!(Dataset::open(&path, &bpe(), 1000).unwrap().len(), 2, "{name}");
    }
    for name in ["a.txt", "a.md", "a", "jsonl"] {
        let (_dir, path) = file(name, row);
        assert_eq!(Dataset::open(&path, &bpe(), 1000).unwrap().len(), 1, "{name}");
    }
    let (_dir, path) = file("a.json", "[\n{\"text\": \"a\"}\n]");
    let error = Dataset::open(&path, &bpe(), 10).unwrap_err().to_string();
    assert!(error.contains("convert it to one JSON object a line"), "{error}");
}

#[test]
fn what_is_no_data_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path, seq_len| Dataset::open(path, &bpe(), seq_len).unwrap_err().to_string();
    assert!(open(dir.path(), 8).contains("is not a file"));
    let absent = open(&dir.path().join("absent.jsonl"), 8);
    assert!(absent.contains("cannot open") && absent.contains("absent.jsonl"), "{absent}");
    let (_dir, path) = file("a.txt", "the cat sat");
    assert!(open(&path, 0).contains("sequence length is 0"));
    let data = Dataset::open(&path, &bpe(), 8).unwrap();
    assert!(data.example(data.len()).unwrap_err().to_string().contains("a.txt has 1"));
}

/// Rows that training cannot learn from are kept in place and counted for a warning.
#[test]
fn rows_cut_short_and_rows_without_targets_are_counted() {
    let long = "the cat sat on the mat ".repeat(5);
    let content = format!(
        "{{\"text\": \"the\"}}\n\n{{\"prompt\": \"{long}\", \"completion\": \"x\"}}\n{{\"text\": \"{long}\"}}\n"
    );
    let (_dir, path) = file("a.jsonl", content);
    let data = Dataset::open(&path, &bpe(), 8).unwrap();
    assert_eq!(data.skipped(), Skipped::default());
    let targets: Vec<u64> = (0..3).map(|i| data.example(i).unwrap().targets()).collect();
    assert_eq!(targets[1..], [0, 8]);
    let expected = Skipped { examples: 3, truncated: 2, without_targets: 1, first_line: Some(3) };
    assert_eq!(data.skipped(), expected);
}

/// An example never exceeds the sequence length + 1, and exactly that length is not cut.
#[test]
fn the_limit_is_sequence_length_and_one() {
    let tokenizer = bpe();
    let all = tokenizer.encode("the cat sat on the mat", 1000).unwrap();
    let (_dir, path) = file("a.jsonl", "{\"text\": \"the cat sat on the mat\"}");
    for seq_len in 1..all.len() + 2 {
        let example = Dataset::open(&path, &tokenizer, seq_len).unwrap().example(0).unwrap();
        assert_eq!(example.tokens, all[..all.len().min(seq_len + 1)]);
        assert_eq!(example.truncated, all.len() > seq_len + 1);
        assert_eq!(example.inputs(), example.tokens.len() - 1);
    }
}

#[test]
fn a_dataset_may_be_used_from_many_threads() {
    let rows: Vec<String> = (0..200).map(|i| format!("{{\"text\": \"the cat {i}\"}}")).collect();
    let (_dir, path) = file("a.jsonl", rows.join("\n"));
    let data = &Dataset::open(&path, &bpe(), 32).unwrap();
    let read = |offset: u64| (0..200).map(move |i| data.example((i * 7 + offset) % 200).unwrap());
    let expected: Vec<Example> = read(0).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(read(0).collect::<Vec<_>>(), expected));
        }
    });
}

use super::super::fixtures::{END, bpe, file};
use super::*;
use proptest::prelude::*;

fn open(content: impl AsRef<[u8]>) -> Result<RowFile, String> {
    let (_dir, path) = file("rows.jsonl", content);
    RowFile::open(&path).map_err(|e| e.to_string())
}

fn texts(rows: &RowFile, order: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    let read = |index| rows.read(index).map(|(line, bytes)| (line, String::from_utf8(bytes).unwrap()));
    order.into_iter().map(|index| read(index).unwrap()).collect()
}

/// Rows of very different lengths with blank lines between them, read in every kind of order.
#[test]
fn any_row_is_found_in_any_order() {
    let mut content = String::from("\u{feff}\n");
    let mut expected = vec![];
    let mut line = 2;
    for i in 0..500 {
        let row = format!("{{\"text\": \"{i} {}\"}}", "x".repeat(if i % 97 == 0 { 300_000 } else { i % 50 }));
        content += &row;
        content += ["\n", "\r\n", "\n \t \n\n"][i % 3];
        expected.push((line, row));
        line += [1, 1, 3][i % 3];
    }
    let (_dir, path) = file("rows.jsonl", content.trim_end());
    let rows = RowFile::open(&path).unwrap();
    assert_eq!(rows.len(), 500);
    assert_eq!(texts(&rows, 0..500), expected);
    assert_eq!(texts(&rows, (0..500).rev()), expected.iter().rev().cloned().collect::<Vec<_>>());
    let jumps = (0..500).map(|i| i * 173 % 500);
    assert_eq!(texts(&rows, jumps.clone()), jumps.map(|i| expected[i as usize].clone()).collect::<Vec<_>>());
    // the long rows have marks of their own, so a row near one is found without reading it
    assert!(rows.marks.len() > 500 / 32 + 5, "{}", rows.marks.len());
}

/// What streaming promises: memory by the index, not by the rows.
#[test]
fn the_index_of_many_rows_is_small() {
    let row = format!("{{\"text\": \"{}\"}}\n", "word ".repeat(10));
    let content = row.repeat(200_000);
    let (_dir, path) = file("rows.jsonl", &content);
    let rows = RowFile::open(&path).unwrap();
    assert_eq!(rows.len(), 200_000);
    let index = rows.marks.capacity() * size_of::<Mark>();
    assert!(index <= content.len() / 64, "{index} bytes of index for {} of rows", content.len());
    assert_eq!(texts(&rows, [199_999])[0], (200_000, row.trim_end().into()));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let good = "{\"text\": \"a\"}\n";
    for (bad, says) in [
        ("{\"text\": 1}", "\"text\" is a number"),
        ("nonsense", "not a JSON object"),
        ("{\"text\": \"a\"", "bad JSON at column 12"),
        ("{\"messages\": []}", "\"messages\" is empty"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "--chat-template"),
        ("[{\"text\": \"a\"}]", "JSON array"),
        ("{\"prompt\": \"a\"}", "no \"completion\""),
    ] {
        let error = open(format!("{good}\n{good}{bad}\n{good}")).unwrap_err();
        assert!(error.contains("rows.jsonl, line 4:") && error.contains(says), "{error}");
    }
    let error = open(b"{\"text\": \"a\"}\n{\"text\": \"\xe9\"}\n").unwrap_err();
    assert!(error.contains("line 2: byte 11 of the line is not UTF-8"), "{error}");
}

#[test]
fn a_file_without_rows_is_an_error() {
    for content in ["", "\n\n \n", "\u{feff}"] {
        let error = open(content).unwrap_err();
        assert!(error.contains("rows.jsonl") && error.contains("no rows"), "{error}");
    }
}

#[test]
fn a_line_over_the_limit_is_refused_by_its_number() {
    let (_dir, path) =
        file("rows.jsonl", format!("{{\"text\":\"a\"}}\n{{\"text\":\"{}\"}}\n", "x".repeat(100)));
    let error = RowFile::open_with(&path, 50, None, 2).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("longer than 50 bytes"), "{error}");
    assert_eq!(RowFile::open_with(&path, 111, None, 2).unwrap().len(), 2);
}

#[test]
fn pairs_have_weight_on_the_completion_only() {
    let (_dir, path) = file(
        "rows.jsonl",
        "{\"prompt\": \"the cat\", \"completion\": \" sat\"}\n{\"text\": \"the cat sat\"}",
    );
    let (rows, tokenizer) = (RowFile::open(&path).unwrap(), bpe());
    let prompt = tokenizer.tokens("the cat").unwrap().len();
    let all = tokenizer.encode("the cat sat", 100).unwrap();
    let (pair, line) = rows.example(0, &tokenizer, 100).unwrap();
    assert_eq!((&pair.tokens, line, pair.truncated), (&all, 1, false));
    let weights: Vec<f32> = (1..all.len()).map(|i| if i < prompt { 0.0 } else { 1.0 }).collect();
    assert_eq!(pair.weights, weights);
    assert_eq!(pair.tokens.last(), Some(&END));
    let (text, line) = rows.example(1, &tokenizer, 100).unwrap();
    assert_eq!((&text.tokens, line), (&all, 2));
    assert_eq!(text.weights, vec![1.0; all.len() - 1]);
    // cut within the prompt: the example stays, without weight
    let (cut, _) = rows.example(0, &tokenizer, prompt).unwrap();
    assert_eq!((cut.tokens.len(), cut.targets(), cut.truncated), (prompt, 0, true));
    let (exact, _) = rows.example(1, &tokenizer, all.len()).unwrap();
    assert!(!exact.truncated);
}

#[test]
fn a_file_that_changes_underneath_is_an_error() {
    let (_dir, path) = file("rows.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    let rows = RowFile::open(&path).unwrap();
    std::fs::write(&path, "{\"text\": \"one\"}\n").unwrap();
    let error = rows.example(1, &bpe(), 10).unwrap_err().to_string();
    assert!(error.contains("changed while it was in use"), "{error}");
    std::fs::write(&path, "{\"text\": \"one\"}\n{\"tex: \"two\"}\n").unwrap();
    let error = rows.example(1, &bpe(), 10).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

fn check_hostile(content: &[u8]) {
    let (_dir, path) = file("rows.jsonl", content);
    match RowFile::open(&path) {
        Ok(rows) => {
            let tokenizer = bpe_once();
            for index in 0..rows.len() {
                rows.example(index, tokenizer, 8).unwrap();
            }
        }
        Err(DataError::Empty { .. }) => {}
        Err(error) => {
            let lines = content.split(|&b| b == b'\n').count();
            let text = error.to_string();
            let line = text.split("line ").nth(1).and_then(|rest| rest.split(':').next());
            let line: usize = line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"));
            assert!((1..=lines).contains(&line), "{text}");
        }
    }
}

fn bpe_once() -> &'static Tokenizer {
    static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(bpe);
    &TOKENIZER
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// No file panics, and every fault has a line.
    #[test]
    fn random_bytes_are_an_error_with_a_line(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_hostile(&content);
    }

    /// The same for files that are nearly right: one byte changed, removed or doubled.
    #[test]
    fn mutated_rows_are_rows_or_an_error_with_a_line(at in 0usize..120, to: u8, how in 0..3) {
        let mut content = b"{\"text\": \"a \\u00e9 \\n\"}\r\n\n{\"prompt\": \"p\", \"completion\": \"\xc3\xa9\", \
            \"n\": [1, null, {\"a\": 1e5}]}\n{\"text\": \"last\"}".to_vec();
        let at = at % content.len();
        match how {
            0 => content[at] = to,
            1 => { content.remove(at); }
            _ => content.insert(at, to),
        }
        check_hostile(&content);
    }
}

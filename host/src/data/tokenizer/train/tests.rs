use super::*;
use crate::data::Tokenizer;
use std::fs;

const TEXT: &str = "the lamp is lit, the lamp is out\nthe gulls are loud at the lamp's door\n";

fn file(dir: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// What is learned can be loaded as any tokenizer, writes every text, and ends with token 0.
#[test]
fn a_saved_tokenizer_is_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let text = file(&dir, "a.txt", TEXT);
    let new = NewTokenizer::learn(&[text], 280).unwrap();
    assert_eq!((new.tokens, new.bytes, new.is_part), (280, TEXT.len() as u64, false));
    let folder = dir.path().join("new/folder");
    new.save(&folder).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!(tokenizer.end_ids(), [0]);
    for text in [TEXT, "Ünïcode \u{1f426}\tand\r\nwhite  space ", ""] {
        let ids = tokenizer.encode(text, 1000).unwrap();
        assert_eq!(ids.last(), Some(&0));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    let ids = tokenizer.encode(" the lamp<|im_start|>the<|im_end|>", 1000).unwrap();
    assert!(ids.len() < 8 && ids.contains(&1) && ids.contains(&2), "{ids:?}");
    assert!(matches!(new.save(&folder), Err(DataError::TokenizerExists { .. })));
}

/// The vocabulary is part of a model: made again, it must be the same, in whatever order the threads count.
#[test]
fn the_same_text_gives_the_same_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{{\"text\": \"{} {}\"}}\n", TEXT.trim().replace('\n', "\\n"), i * 7919);
    let rows = file(&dir, "a.jsonl", &(0..500).map(row).collect::<String>());
    let json =
        || NewTokenizer::learn(std::slice::from_ref(&rows), 400).unwrap().raw.to_string(false).unwrap();
    let first = json();
    assert!((0..5).all(|_| json() == first));
}

/// Rows of both kinds and plain text say the same.
#[test]
fn all_kinds_of_data_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let pair = "{\"prompt\": \"the lamp\", \"completion\": \" is lit\"}\n";
    let files = [
        file(&dir, "a.jsonl", pair),
        file(&dir, "b.jsonl", "{\"text\": \"the lamp is lit\"}\n"),
        file(&dir, "c.txt", "the lamp is lit"),
    ];
    let json = |file: &PathBuf| {
        let new = NewTokenizer::learn(std::slice::from_ref(file), 265).unwrap();
        assert_eq!((new.tokens, new.bytes), (265, 15));
        new.raw.to_string(false).unwrap()
    };
    assert_eq!(json(&files[0]), json(&files[1]));
    assert_eq!(json(&files[0]), json(&files[2]));
    assert_eq!(NewTokenizer::learn(&files, 265).unwrap().bytes, 45);
}

#[test]
fn what_cannot_be_learned_from_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(&dir, "a.txt", TEXT);
    for asked in [0, 258, LARGEST + 1, usize::MAX] {
        let error = NewTokenizer::learn(std::slice::from_ref(&good), asked).unwrap_err();
        assert!(matches!(error, DataError::Vocabulary { .. }), "{error}");
    }
    let bad = file(&dir, "b.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}\n");
    let error = NewTokenizer::learn(&[good.clone(), bad], 300).unwrap_err();
    assert!(matches!(error, DataError::BadRow { line: 2, .. }), "{error}");
    assert!(NewTokenizer::learn(&[good.clone(), dir.path().join("none.txt")], 300).is_err());
    assert!(NewTokenizer::learn(&[dir.path().to_owned()], 300).is_err());
    // Too little text is no error, and neither is none at all.
    let few = NewTokenizer::learn(&[file(&dir, "c.txt", "")], 5000).unwrap();
    assert_eq!(few.tokens, SMALLEST);
}

/// A file without spaces is no reason for memory without bound or a token as long as the file; much text is cut.
#[test]
fn sizes_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let long = file(&dir, "a.txt", &format!("{} lamp lamp", "x".repeat(3 << 20)));
    let new = NewTokenizer::learn(std::slice::from_ref(&long), 300).unwrap();
    assert!(
        new.raw.get_vocab(true).keys().all(|token| token.chars().count() <= LONGEST_WORD),
        "a long token"
    );
    let part = NewTokenizer::learn_with(&[long.clone(), long], 300, 1 << 20).unwrap();
    assert!(part.is_part && part.bytes <= 2 << 20, "{} bytes", part.bytes);
}

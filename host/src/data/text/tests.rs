use super::super::fixtures::{BEGIN, END, bpe, bpe_with_begin, file, prose, raw_bpe};
use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

static BPE: LazyLock<Tokenizer> = LazyLock::new(bpe);
const SMALL: Cutting = Cutting { whole: 0, piece: 512, context: 128, largest: 1 << 16 };
const WINDOW: usize = 33;

fn open(path: &Path, tokenizer: &Tokenizer, cutting: Cutting) -> TextFile {
    // a cache of hardly one piece, so that pieces are really encoded again
    TextFile::open_with(path, tokenizer, WINDOW, cutting, 100).unwrap()
}

fn all_tokens(text: &TextFile) -> Vec<u32> {
    (0..text.len()).flat_map(|index| text.example(index).unwrap().tokens).collect()
}

/// All whole windows of the text tokenized at once, and the rest if it has two tokens.
fn expected(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.prefix().to_vec();
    ids.extend(tokenizer.tokens(text).unwrap().iter().map(|t| t.id));
    if ids.last() != tokenizer.end_id().as_ref() {
        ids.extend(tokenizer.end_id());
    }
    if ids.len() % WINDOW == 1 {
        ids.pop();
    }
    ids
}

fn check(tokenizer: &Tokenizer, text: &str, cutting: Cutting) -> TextFile {
    let (_dir, path) = file("a.txt", text);
    let opened = open(&path, tokenizer, cutting);
    assert_eq!(all_tokens(&opened), expected(tokenizer, text));
    opened
}

#[test]
fn pieces_have_the_tokens_of_the_whole() {
    for tokenizer in [&*BPE, &bpe_with_begin()] {
        let text = check(tokenizer, &prose(100_000, 1), SMALL);
        assert!(text.index.bytes.len() > 100, "there are pieces: {}", text.index.bytes.len());
    }
}

/// The sizes that are really used, on a text over the size that is one piece.
#[test]
fn the_default_cutting_has_the_tokens_of_the_whole() {
    let text = check(&BPE, &prose((1 << 20) + 300_000, 2), Cutting::DEFAULT);
    assert!(text.index.bytes.len() > 15);
    assert_eq!(check(&BPE, &prose(500_000, 3), Cutting::DEFAULT).index.bytes.len(), 2);
}

/// A tokenizer without pre-tokenizer merges across words, so no place is safe by itself.
#[test]
fn a_tokenizer_without_words_has_the_tokens_of_the_whole() {
    let mut raw = raw_bpe();
    raw.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, false)));
    let tokenizer = Tokenizer::new(raw, vec![END]).unwrap();
    check(&tokenizer, &prose(30_000, 4), SMALL);
}

/// A normalizer and a pre-tokenizer that put a space before every text they see.
#[test]
fn a_space_put_before_the_text_is_put_once() {
    let mut raw = raw_bpe();
    raw.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(true, true, true)));
    let tokenizer = Tokenizer::new(raw, vec![END]).unwrap();
    check(&tokenizer, &prose(30_000, 4), SMALL);
}

/// No words to cut between: other scripts, and runs whose tokens depend on where one begins.
#[test]
fn texts_without_words_have_the_tokens_of_the_whole() {
    check(&BPE, &"\u{4f60}\u{597d}\u{4e16}\u{754c}\u{ff0c}".repeat(2000), SMALL);
    check(&BPE, &"\u{1f600}\u{1f601}".repeat(1500), SMALL);
    check(&BPE, &"thethethecat".repeat(1500), SMALL);
    check(&BPE, &format!("{} the cat {}", " ".repeat(5000), "\n".repeat(3001)), SMALL);
}

/// Cutting inside a run of equal words gives pieces that disagree; they must be joined, and a run
/// too long to join must be an error, not other tokens.
#[test]
fn pieces_that_disagree_are_joined_or_refused() {
    let mut raw = raw_bpe();
    let nospace = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, false);
    raw.with_pre_tokenizer(Some(nospace));
    let pair = r#"{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
        "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
        "vocab":{"a":0,"aa":1,"aaa":2,"b":3,"\u0120":4,"END":5},"merges":["a a","aa a"]}"#;
    raw.with_model(serde_json::from_str::<tokenizers::models::bpe::BPE>(pair).unwrap());
    let tokenizer = Tokenizer::new(raw, vec![5]).unwrap();
    // one more than a multiple of three, so that the phase at a cut matters
    let run = format!("b{}b", "a".repeat(4000));
    let joined = check(&tokenizer, &run, SMALL);
    assert!(joined.index.bytes.len() < 8, "{:?}", joined.index.bytes);
    let (_dir, path) = file("a.txt", &run);
    let strict = Cutting { largest: 1500, ..SMALL };
    let error = TextFile::open_with(&path, &tokenizer, WINDOW, strict, 100).unwrap_err().to_string();
    assert!(error.contains("a.txt") && error.contains("pieces that agree"), "{error}");
}

#[test]
fn windows_follow_each_other_and_the_last_may_be_short() {
    let text = "the cat sat on the mat";
    let whole = bpe_with_begin().encode(text, 1000).unwrap();
    assert_eq!((whole[0], *whole.last().unwrap()), (BEGIN, END));
    let (_dir, path) = file("a.txt", text);
    for window in 2..whole.len() + 3 {
        let opened = TextFile::open(&path, &bpe_with_begin(), window).unwrap();
        let windows: Vec<_> = (0..opened.len()).map(|i| opened.example(i).unwrap()).collect();
        let expected: Vec<_> = whole.chunks(window).filter(|chunk| chunk.len() > 1).collect();
        assert_eq!(windows.iter().map(|w| &w.tokens[..]).collect::<Vec<_>>(), expected, "window {window}");
        for window in windows {
            assert_eq!(window.weights, vec![1.0; window.tokens.len() - 1]);
            assert!(!window.truncated);
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_text_and_line_ends_are() {
    let (_dir, path) = file("a.txt", "\u{feff}the\r\ncat");
    assert_eq!(all_tokens(&open(&path, &BPE, SMALL)), expected(&BPE, "the\r\ncat"));
}

#[test]
fn files_without_text_are_errors() {
    for content in ["", "\u{feff}"] {
        let (_dir, path) = file("a.txt", content);
        let error = TextFile::open(&path, &BPE, 8).unwrap_err().to_string();
        assert!(error.contains("a.txt") && error.contains("no text"), "{error}");
    }
    let (_dir, path) = file("a.txt", "<|end|>");
    let error = TextFile::open(&path, &BPE, 8).unwrap_err().to_string();
    assert!(error.contains("single token"), "{error}");
}

/// Wherever the bad byte lies (inside a piece, at a cut, in a search window), it is named.
#[test]
fn bytes_that_are_not_utf8_are_named() {
    let text = "the cat sat on the\nmat and ".repeat(200);
    for at in (0..text.len()).step_by(61).chain([text.len() - 1]) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = 0xff;
        let (_dir, path) = file("a.txt", &bytes);
        let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() as u64 + 1;
        match TextFile::open_with(&path, &BPE, 8, SMALL, 100).unwrap_err() {
            DataError::NotUtf8 { line: l, offset, .. } => assert_eq!((l, offset), (line, at as u64)),
            other => panic!("{other}"),
        }
    }
    let (_dir, path) = file("a.txt", b"abc\xe4\xbd");
    let error = TextFile::open(&path, &BPE, 8).unwrap_err().to_string();
    assert!(error.contains("line 1: byte 3 of the file"), "a cut character at the end: {error}");
}

#[test]
fn a_text_that_changes_underneath_is_an_error() {
    let content = prose(20_000, 6);
    let (_dir, path) = file("a.txt", &content);
    let opened = open(&path, &BPE, SMALL);
    std::fs::write(&path, "a ".repeat(content.len() / 2)).unwrap();
    let error = opened.example(opened.len() - 2).unwrap_err().to_string();
    assert!(error.contains("changed while it was in use"), "{error}");
    std::fs::write(&path, "short").unwrap();
    let error = opened.example(opened.len() / 2).unwrap_err().to_string();
    assert!(error.contains("became shorter"), "{error}");
}

#[test]
fn the_cache_keeps_what_was_used_last() {
    let ids = |n| Arc::new(vec![0; n]);
    let mut cache = Cache { pieces: VecDeque::new(), held: 0, limit: 10 };
    cache.fill(0, &[0; 6]);
    cache.fill(1, &[0; 6]);
    assert!(cache.get(0).is_some() && cache.get(1).is_none(), "a full cache takes no more while indexing");
    cache.put(2, ids(4));
    assert!(cache.get(0).is_some());
    cache.put(3, ids(3));
    assert!(cache.get(2).is_none() && cache.get(0).is_some() && cache.get(3).is_some());
    cache.put(4, ids(50));
    assert_eq!((cache.pieces.len(), cache.held), (1, 50), "a piece over the limit is still kept alone");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_prose_cut_anyhow_has_the_tokens_of_the_whole(
        seed: u64, bytes in 1usize..8000, piece in 200u64..900, context in 64u64..200,
    ) {
        check(&BPE, &prose(bytes, seed), Cutting { whole: 0, piece, context, largest: 1 << 16 });
    }

    #[test]
    fn any_text_has_the_tokens_of_the_whole(text in "(\\PC| |a|b|\n){1,1500}") {
        let cutting = Cutting { whole: 0, piece: 256, context: 64, largest: 1 << 20 };
        check(&BPE, &text, cutting);
    }
}

use super::super::fixtures::{self, BEGIN, END, END_OF_TURN, bpe, bpe_with_begin, raw_bpe};
use super::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const ALL: usize = 1 << 20;

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.tokens(text).unwrap().iter().map(|t| t.id).collect()
}

#[test]
fn the_template_stands_first_and_the_end_token_last() {
    let tokenizer = bpe_with_begin();
    let text = ids(&tokenizer, "the cat");
    assert!(!text.is_empty());
    let expected = [&[BEGIN][..], &text, &[END]].concat();
    assert_eq!(tokenizer.encode("the cat", ALL).unwrap(), expected);
    assert_eq!(tokenizer.encode("the cat", 2).unwrap(), expected[..2]);
    assert_eq!(tokenizer.encode("", ALL).unwrap(), [BEGIN, END]);
    assert_eq!(tokenizer.decode(&expected).unwrap(), "the cat");
}

/// Either end token closes an example; only the first is ever appended.
#[test]
fn an_end_that_is_there_is_not_doubled() {
    let tokenizer = bpe_with_begin();
    let text = ids(&tokenizer, "cat");
    for (written, end) in [("cat", END), ("cat<|end|>", END), ("cat<|turn|>", END_OF_TURN)] {
        let expected = [&[BEGIN][..], &text, &[end]].concat();
        assert_eq!(tokenizer.encode(written, ALL).unwrap(), expected, "{written}");
    }
    let without = Tokenizer::new(raw_bpe(), vec![]).unwrap();
    assert_eq!(without.encode("cat", ALL).unwrap(), text);
}

/// A template that closes with the end token itself must not get a second one.
#[test]
fn a_template_may_bring_the_end_token() {
    let mut raw = raw_bpe();
    let template = tokenizers::processors::template::TemplateProcessing::builder()
        .try_single("<|begin|> $A <|end|>")
        .unwrap()
        .special_tokens(vec![("<|begin|>", BEGIN), ("<|end|>", END)])
        .build()
        .unwrap();
    raw.with_post_processor(Some(template));
    let tokenizer = Tokenizer::new(raw, vec![END]).unwrap();
    let text = ids(&tokenizer, "cat");
    assert_eq!(tokenizer.encode("cat", ALL).unwrap(), [&[BEGIN][..], &text, &[END]].concat());
    let (pair, first) = tokenizer.pair_example("cat", "", ALL).unwrap();
    assert_eq!((pair.len(), first), (text.len() + 2, text.len() + 1), "closing tokens are completion");
}

/// What our template-less encoding gives must be what the library gives with everything on.
#[test]
fn the_ids_are_those_of_the_library() {
    let mut raw = raw_bpe();
    raw.with_post_processor(Some(fixtures::begin_template()));
    let ours = Tokenizer::new(raw.clone(), vec![]).unwrap();
    for text in ["", "a", " the  cat\n\n", fixtures::WORDS, "x<|end|>y"] {
        assert_eq!(ours.encode(text, ALL).unwrap(), raw.encode(text, true).unwrap().get_ids(), "{text:?}");
    }
}

#[test]
fn truncation_padding_and_dropout_of_the_file_are_off() {
    let mut json: Value = serde_json::from_str(&raw_bpe().to_string(false).unwrap()).unwrap();
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|end|>"});
    json["model"]["dropout"] = json!(1.0);
    let raw = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
    assert_eq!(raw.encode("the cat", true).unwrap().len(), 64, "the settings are in force");
    let tokenizer = Tokenizer::new(raw, vec![END]).unwrap();
    let text = "the cat sat on the mat";
    assert_eq!(tokenizer.encode(text, ALL).unwrap(), bpe().encode(text, ALL).unwrap());
}

/// Where the completion begins, told by what the tokens before it spell.
fn prompt_of(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> String {
    let (ids, first) = tokenizer.pair_example(prompt, completion, ALL).unwrap();
    let whole = tokenizer.encode(&[prompt, completion].concat(), ALL).unwrap();
    assert_eq!(ids, whole, "a pair is tokenized as the text that the model will see");
    assert_eq!(ids.last(), Some(&END));
    tokenizer.decode(&ids[..first]).unwrap()
}

#[test]
fn the_completion_begins_at_its_first_token() {
    // GPT-2's own post-processor trims spaces off the places it reports
    let mut trimming = raw_bpe();
    trimming.with_post_processor(Some(ByteLevel::new(false, true, true)));
    let trimming = Tokenizer::new(trimming, vec![END]).unwrap();
    for tokenizer in [bpe(), bpe_with_begin(), trimming] {
        let prompt = |prompt, completion| prompt_of(&tokenizer, prompt, completion);
        assert_eq!(prompt("the cat", " sat"), "the cat");
        assert_eq!(prompt("the cat\n", "sat"), "the cat\n");
        // " sat" is one token across the border, so it belongs to the completion
        assert_eq!(prompt("the cat ", "sat"), "the cat");
        assert_eq!(prompt("", "sat"), "");
        assert_eq!(prompt("the cat", ""), "the cat");
        // a space that stands for itself: its place must not be trimmed away
        assert_eq!(prompt("the ", "\nsat"), "the ");
        assert_eq!(prompt("the", " \nsat"), "the");
        // characters of several bytes, split into tokens that share one place
        assert_eq!(prompt("\u{1f601}", "\u{1f602}\u{1f603}"), "\u{1f601}");
        assert_eq!(prompt("na\u{ef}ve\u{1f601}", "\u{e9}"), "na\u{ef}ve\u{1f601}");
    }
}

/// Characters before the border that take several bytes shift byte places against char places.
#[test]
fn places_are_bytes_not_characters() {
    let tokenizer = bpe();
    let prompt = "\u{4f60}\u{597d}\u{4f60}\u{597d}";
    assert_eq!(prompt_of(&tokenizer, prompt, "abc def ghi jkl"), prompt);
}

#[test]
fn the_begin_token_is_prompt_and_the_end_token_a_target() {
    let (ids, first) = bpe_with_begin().pair_example("", "", ALL).unwrap();
    assert_eq!((ids, first), (vec![BEGIN, END], 1));
}

/// A long row is encoded only as far as needed, with the same tokens.
#[test]
fn the_head_of_a_long_text_has_the_tokens_of_the_whole() {
    let tokenizer = bpe_with_begin();
    let text = fixtures::prose(4 * LONG_TEXT, 5);
    let whole = tokenizer.tokens(&text).unwrap();
    for limit in [1, 100, 20_000] {
        let head = tokenizer.head(&text, limit).unwrap();
        assert!(head.len() >= limit && head.len() < whole.len(), "{limit}: {} tokens", head.len());
        assert_eq!(head, whole[..head.len()]);
        assert_eq!(tokenizer.encode(&text, limit).unwrap()[1..], ids(&tokenizer, &text)[..limit - 1]);
    }
    assert_eq!(tokenizer.head(&text, ALL).unwrap(), whole);
    let prompt = tokenizer.encode_prompt(&text, true).unwrap();
    let head = tokenizer.encode_prompt_head(&text, true, 100).unwrap();
    assert!(head.len() > 100 && head.len() < prompt.len());
    assert_eq!(head, prompt[..head.len()]);
    let unbroken = "\u{4f60}".repeat(LONG_TEXT);
    assert_eq!(tokenizer.encode(&unbroken, 9).unwrap().len(), 9, "a text without words has a head too");
}

struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, Value)]) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, content) in files {
            std::fs::write(folder.0.path().join(name), content.to_string()).unwrap();
        }
        folder
    }
    fn path(&self) -> PathBuf {
        self.0.path().into()
    }
    fn load(&self) -> Result<Tokenizer, String> {
        Tokenizer::from_folder(&self.path()).map_err(|e| e.to_string())
    }
    fn error(&self) -> String {
        self.load().unwrap_err()
    }
}

fn tokenizer_json() -> Value {
    serde_json::from_str(&raw_bpe().to_string(false).unwrap()).unwrap()
}

#[test]
fn end_tokens_come_from_the_first_file_that_has_them() {
    let ends = |files: &[(&str, Value)]| {
        let folder = Folder::with(&[&[("tokenizer.json", tokenizer_json())], files].concat());
        folder.load().map(|t| t.end_ids().to_vec())
    };
    let generation = ("generation_config.json", json!({"eos_token_id": [2, 0]}));
    let named = ("tokenizer_config.json", json!({"eos_token": {"content": "<|turn|>", "special": true}}));
    assert_eq!(ends(&[]), Ok(vec![]));
    assert_eq!(ends(&[("config.json", json!({"eos_token_id": 5})), generation.clone()]), Ok(vec![5]));
    assert_eq!(ends(&[("config.json", json!({"eos_token_id": [7, 5]}))]), Ok(vec![7, 5]));
    let null = ("config.json", json!({"eos_token_id": null}));
    assert_eq!(ends(&[null.clone(), generation, named.clone()]), Ok(vec![2, 0]));
    assert_eq!(ends(&[null, named]), Ok(vec![2]));
    assert_eq!(ends(&[("tokenizer_config.json", json!({"eos_token": "<|end|>"}))]), Ok(vec![0]));
    assert_eq!(ends(&[("tokenizer_config.json", json!({"eos_token": null}))]), Ok(vec![]));
    for bad in [json!(-1), json!("x"), json!([1, "x"]), json!(1.5), json!(1u64 << 32)] {
        let error = ends(&[("config.json", json!({"eos_token_id": bad}))]).unwrap_err();
        assert!(error.contains("config.json") && error.contains("eos_token_id"), "{error}");
    }
    let error = ends(&[("tokenizer_config.json", json!({"eos_token": "<|no|>"}))]).unwrap_err();
    assert!(error.contains("<|no|>"), "{error}");
    let error = ends(&[("config.json", json!([]))]).unwrap_err();
    assert!(error.contains("config.json") && error.contains("JSON object"), "{error}");
}

#[test]
fn a_missing_or_broken_tokenizer_is_explained() {
    assert!(Folder::with(&[]).error().contains("expected tokenizer.json"));
    let error = Folder::with(&[("tokenizer.model", json!(""))]).error();
    assert!(error.contains("only tokenizer.model is there") && error.contains("save_pretrained"), "{error}");
    assert!(Folder::with(&[("vocab.json", json!({}))]).error().contains("only vocab.json"));
    let error = Folder::with(&[("tokenizer.json", json!({"version": "1.0"}))]).error();
    assert!(error.contains("tokenizer.json") && error.contains("not a tokenizer"), "{error}");
    let absent = Tokenizer::from_folder(std::path::Path::new("no-such-folder")).unwrap_err().to_string();
    assert!(absent.contains("no-such-folder") && absent.contains("no such folder"), "{absent}");
}

/// The library takes the names of the two files as text.
#[cfg(target_os = "linux")]
#[test]
fn a_tokenizer_in_two_files_under_a_name_that_is_no_unicode_is_explained() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("vocab.json"), "{}").unwrap();
    std::fs::write(odd.join("merges.txt"), "").unwrap();
    let error = Tokenizer::from_folder(&odd).unwrap_err().to_string();
    assert!(error.contains("odd\u{fffd}/vocab.json") && error.contains("rename it"), "{error}");
}

/// The library panics on a template whose tokens are not declared, and on JSON that breaks off in a decoder.
#[test]
fn a_tokenizer_that_the_library_panics_on_is_an_error() {
    let mut json = tokenizer_json();
    json["post_processor"] = json!({"type": "TemplateProcessing", "single": [{"SpecialToken":
        {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {}});
    let folder = Folder::with(&[("tokenizer.json", json)]);
    let error = folder.error();
    assert!(error.contains("tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{\n\"decoder\": {\"type\": x}}").unwrap();
    let error = folder.error();
    assert!(error.contains("line 2"), "{error}");
}

/// GPT-2's own folder may have no tokenizer.json.
#[test]
fn vocabulary_and_merges_make_the_same_tokenizer() {
    let json = tokenizer_json();
    let vocab: Value = json["model"]["vocab"].clone();
    let merges: Vec<String> = json["model"]["merges"].as_array().unwrap().iter().map(merge_line).collect();
    let next = vocab.as_object().unwrap().len();
    let folder = Folder::with(&[
        ("vocab.json", vocab),
        ("tokenizer_config.json", json!({"eos_token": "<|end|>", "bos_token": "<|begin|>"})),
        ("added_tokens.json", json!({"<|added|>": next})),
    ]);
    let merges = format!("#version: 0.2\n{}\n", merges.join("\n"));
    std::fs::write(folder.path().join("merges.txt"), merges).unwrap();
    let tokenizer = folder.load().unwrap();
    let text = format!("{}<|end|>", fixtures::WORDS);
    assert_eq!(tokenizer.encode(&text, ALL).unwrap(), bpe().encode(&text, ALL).unwrap());
    assert_eq!(tokenizer.encode("<|added|>", ALL).unwrap(), [next as u32, END]);

    std::fs::write(folder.path().join("added_tokens.json"), r#"{"<|added|>": 9999}"#).unwrap();
    assert!(folder.error().contains("9999"), "a gap in the ids is no guess");
    std::fs::remove_file(folder.path().join("added_tokens.json")).unwrap();
    let other = json!({"tokenizer_class": "RobertaTokenizer"}).to_string();
    std::fs::write(folder.path().join("tokenizer_config.json"), other).unwrap();
    assert!(folder.error().contains("RobertaTokenizer"));
}

fn merge_line(merge: &Value) -> String {
    match merge {
        Value::String(line) => line.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    }
}

use crate::data::Tokenizer;
use crate::weights::gguf::testing::{File, List, Value, texts};

/// The tokenizer of a file, or why there is none.
fn open(file: &File) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    Tokenizer::from_model(&path).map_err(|error| error.to_string())
}

fn set(file: &mut File, key: &str, value: Value) {
    file.set(&format!("tokenizer.ggml.{key}"), value);
}

/// SentencePiece with four pieces besides what is special.
fn pieces() -> File {
    let mut file = File::llama();
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab"];
    set(&mut file, "model", Value::Text("llama".into()));
    set(&mut file, "tokens", texts(&tokens));
    set(&mut file, "scores", Value::List(List::F32(vec![0.0, 0.0, 0.0, 0.0, -4.0, -2.0, -3.0, -1.0])));
    set(&mut file, "token_type", Value::List(List::I32(vec![2, 3, 3, 6, 1, 1, 1, 1])));
    set(&mut file, "bos_token_id", Value::Unsigned(1));
    set(&mut file, "eos_token_id", Value::Unsigned(2));
    file.set("llama.vocab_size", Value::Unsigned(8));
    let embedding = file.tensor("token_embd.weight");
    (embedding.sizes, embedding.data) = (vec![4, 8], vec![0; 128]);
    file
}

fn ids(file: &File, text: &str) -> Vec<u32> {
    open(file).unwrap().encode(text, 100).unwrap()
}

/// Begin and end tokens and the space in front, by default and as the file says.
#[test]
fn flags_of_sentence_piece() {
    let mut file = pieces();
    assert_eq!(ids(&file, "ab\nb"), [1, 4, 7, 3, 6, 2]);
    set(&mut file, "add_bos_token", Value::Bool(false));
    assert_eq!(ids(&file, "ab"), [4, 7, 2]);
    set(&mut file, "add_space_prefix", Value::Bool(false));
    assert_eq!(ids(&file, "ab a"), [7, 4, 5, 2]);
    set(&mut file, "add_eos_token", Value::Bool(true));
    assert_eq!(ids(&file, "ab"), [7, 2]);
    // No byte of "c" is there: it is unknown, not lost.
    assert_eq!(ids(&file, "c"), [0, 2]);
}

/// Every token that ends a turn ends a text; the end of a text is appended.
#[test]
fn end_tokens() {
    let mut file = pieces();
    set(&mut file, "eot_token_id", Value::Unsigned(6));
    set(&mut file, "eom_token_id", Value::Unsigned(2));
    set(&mut file, "padding_token_id", Value::Unsigned(0xffff_ffff));
    assert_eq!(open(&file).unwrap().end_ids(), [2, 6]);
    file.remove("tokenizer.ggml.eos_token_id");
    file.remove("tokenizer.ggml.eot_token_id");
    file.remove("tokenizer.ggml.eom_token_id");
    assert_eq!(open(&file).unwrap().end_id(), None);
}

#[test]
fn gpt2_and_its_flags() {
    let mut file = File::llama();
    assert_eq!(ids(&file, "ab"), [2, 3]);
    set(&mut file, "add_bos_token", Value::Bool(true));
    set(&mut file, "bos_token_id", Value::Unsigned(1));
    assert_eq!(ids(&file, "ab"), [1, 2, 3]);
}

type Case = (fn(&mut File), &'static [&'static str]);

#[test]
fn tokenizers_that_cannot_be_are_refused() {
    let cases: &[Case] = &[
        (|f| f.remove("tokenizer.ggml.model"), &["tokenizer.ggml.model is missing"]),
        (|f| f.remove("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens is missing"]),
        (|f| set(f, "model", Value::Text("bert".into())), &["\"bert\"", "gpt2", "llama"]),
        (|f| set(f, "model", Value::Unsigned(1)), &["tokenizer.ggml.model is 1", "a text"]),
        (|f| set(f, "pre", Value::Text("kimi-k2".into())), &["\"kimi-k2\"", "llama-bpe", "tekken"]),
        (|f| f.remove("tokenizer.ggml.merges"), &["merges is missing"]),
        (|f| set(f, "merges", texts(&["ab"])), &["merge 0", "\"ab\""]),
        (|f| set(f, "merges", texts(&["a c"])), &["c"]),
        (|f| set(f, "tokens", texts(&["a", "b", "ab", "a"])), &["\"a\"", "twice"]),
        (|f| set(f, "token_type", Value::List(List::I32(vec![1]))), &["token_type has 1", "4 tokens"]),
        (|f| set(f, "token_type", Value::List(List::I32(vec![1, 1, 1, 9]))), &["token 3", "9"]),
        (|f| set(f, "eos_token_id", Value::Unsigned(4)), &["eos_token_id is 4", "4 tokens"]),
        (|f| set(f, "eos_token_id", Value::Text("x".into())), &["eos_token_id is \"x\""]),
        (|f| set(f, "add_bos_token", Value::Bool(true)), &["add_bos_token", "bos_token_id is missing"]),
        (|f| set(f, "add_bos_token", Value::Unsigned(1)), &["add_bos_token is 1", "true or false"]),
        (|f| set(f, "precompiled_charsmap", Value::Text(String::new())), &["precompiled_charsmap"]),
        (|f| set(f, "model", Value::Text("llama".into())), &["scores is missing"]),
    ];
    for (change, words) in cases {
        let mut file = File::llama();
        change(&mut file);
        check(&file, words);
    }
    let mut file = pieces();
    set(&mut file, "scores", Value::List(List::F32(vec![0.0; 3])));
    check(&file, &["scores has 3", "8 tokens"]);
    set(&mut file, "scores", Value::List(List::F32(vec![f32::NAN; 8])));
    check(&file, &["score of token 4", "no number"]);
    let mut file = pieces();
    set(&mut file, "token_type", Value::List(List::I32(vec![1, 3, 3, 6, 1, 1, 1, 1])));
    check(&file, &["unknown", "every byte", "lost"]);
}

#[track_caller]
fn check(file: &File, words: &[&str]) {
    let message = open(file).expect_err("a refusal");
    for word in words.iter().chain(&["m.gguf"]) {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

/// A template of the file, with the special tokens that it may name.
#[test]
fn chat_templates_come_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut file = File::llama();
    std::fs::write(&path, file.bytes()).unwrap();
    assert!(crate::data::ChatTemplate::from_model(&path).unwrap().is_none());
    let template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
    file.set("tokenizer.chat_template", Value::Text(template.into()));
    std::fs::write(&path, file.bytes()).unwrap();
    let read = crate::data::ChatTemplate::from_model(&path).unwrap().unwrap();
    let messages = vec![serde_json::json!({"role": "user", "content": "hi"})];
    let text = read.render(&crate::data::Conversation { messages, tools: None }, true).unwrap();
    assert_eq!(text, "hi</s>");
    file.set("tokenizer.chat_template", Value::Unsigned(1));
    std::fs::write(&path, file.bytes()).unwrap();
    let message = crate::data::ChatTemplate::from_model(&path).unwrap_err().to_string();
    assert!(message.contains("tokenizer.chat_template is 1"), "{message}");
}

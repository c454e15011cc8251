use super::*;
use crate::data::{Dataset, Tokenizer, fixtures::file};

fn goldens() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&goldens().join("llama3/model")).unwrap()
}

fn open(name: &str, rows: &Path, seq_len: usize) -> Result<Dataset, String> {
    let model = goldens().join("llama3/model");
    let template = ChatTemplate::from_file(&goldens().join("chat/train").join(name), &model).unwrap();
    Dataset::open_chat(rows, &tokenizer(), Some(&template), seq_len).map_err(|e| e.to_string())
}

/// Tokens and mask as transformers gives them, by blocks and without.
#[test]
fn tokens_and_mask_are_those_of_transformers() {
    let expected: Json =
        serde_json::from_slice(&std::fs::read(goldens().join("chat/train/expected.json")).unwrap()).unwrap();
    let rows = expected["rows"].as_array().unwrap();
    for name in ["template.jinja", "unmarked.jinja"] {
        let data = open(name, &goldens().join("chat/train/train.jsonl"), 100).unwrap();
        assert_eq!((data.len(), data.has_chat()), (rows.len() as u64, true));
        for (index, row) in rows.iter().enumerate() {
            let example = data.example(index as u64).unwrap();
            assert_eq!(json!(example.tokens), row["ids"], "{name}, row {index}");
            let mask: Vec<u64> = example.weights.iter().map(|&weight| weight as u64).collect();
            assert_eq!(json!(mask), json!(row["mask"].as_array().unwrap()[1..]), "{name}, row {index}");
        }
    }
}

/// Whole turns go until it fits; a first exchange that is too long is cut hard; both are told of.
#[test]
fn long_conversations_are_cut_after_a_turn() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let turns: Vec<Json> = (0..6)
        .flat_map(|i| [turn("user", &format!("ask {i}")), turn("assistant", &format!("say {i}"))])
        .collect();
    let (_dir, path) = file("a.jsonl", json!({"messages": turns}).to_string());
    let all = open("unmarked.jinja", &path, 1000).unwrap().example(0).unwrap();
    assert!(!all.truncated);
    let mut lengths = std::collections::BTreeSet::new();
    for seq_len in 1..all.tokens.len() + 2 {
        let data = open("unmarked.jinja", &path, seq_len).unwrap();
        let example = data.example(0).unwrap();
        assert!(example.tokens.len() <= seq_len + 1);
        assert_eq!(example.tokens, all.tokens[..example.tokens.len()]);
        assert_eq!(example.truncated, example.tokens.len() < all.tokens.len());
        assert_eq!(data.skipped().truncated, u64::from(example.truncated));
        lengths.insert(example.tokens.len());
    }
    // The first exchange at every length, and then one length for each further one.
    let first = all.weights.windows(2).position(|pair| pair == [1.0, 0.0]).unwrap() + 3;
    let whole = lengths.iter().filter(|&&length| length > first).count();
    assert_eq!(whole, 5, "{lengths:?}");
}

#[test]
fn errors_name_the_line() {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let shared = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    let (_dir, path) = file("a.jsonl", format!("{good}\n\n{shared}\n"));
    let data = open("template.jinja", &path, 100).unwrap();
    assert_eq!(data.example(0).unwrap(), data.example(1).unwrap());
    let (_dir, path) = file(
        "a.jsonl",
        format!("{good}\n{good}\n{{\"messages\": [{{\"role\": \"user\", \"content\": {{}}}}]}}"),
    );
    assert!(open("template.jinja", &path, 100).unwrap_err().contains("a.jsonl, line 3: message 1"));
    let error = Dataset::open(&path, &tokenizer(), 100).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("--chat-template"), "{error}");
    // A number that the template cannot join to text: found on opening.
    let (_dir, path) = file(
        "a.jsonl",
        format!(
            "{good}\n{}",
            good.replace("\"role\": \"assistant\"", "\"role\": \"assistant\", \"x\": \"\u{fdd0}\"")
        ),
    );
    assert!(open("template.jinja", &path, 100).unwrap_err().contains("line 2"));
}

#[test]
fn a_model_folder_has_its_template_in_either_place() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let chat = conversation(&[("user", "a")]);
    let text = |tools: Option<Vec<Json>>| {
        let template = ChatTemplate::from_model(dir.path()).unwrap().unwrap();
        template.render(&Conversation { tools, ..chat.clone() }, false).unwrap()
    };
    assert!(ChatTemplate::from_model(dir.path()).unwrap().is_none());
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}1"}"#,
    );
    assert_eq!(text(None), "<s>1");
    let list = r#"[{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]"#;
    write("tokenizer_config.json", &format!("{{\"chat_template\": {list}}}"));
    assert_eq!((text(None), text(Some(vec![json!({})]))), ("d".into(), "t".into()));
    write("chat_template.jinja", "file");
    assert_eq!((text(None), text(Some(vec![json!({})]))), ("file".into(), "file".into()));
    write("chat_template.jinja", "{% if %}");
    let error = ChatTemplate::from_model(dir.path()).unwrap_err().to_string();
    assert!(error.contains("cannot be used"), "{error}");
}

//! `finetune generate` against transformers' greedy texts (`goldens/generate.py`), and how it behaves as a program.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use finetune_tests::{fail, finetune, goldens, plugins, succeed};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    goldens().join("generation").join(name)
}

fn generate(name: &str, extra: &[&str]) -> Command {
    generate_on("cpu", name, extra)
}

fn generate_on(backend: &str, name: &str, extra: &[&str]) -> Command {
    let mut command = finetune(["generate", "--backend", backend, "--precision", "f32", "--model"]);
    command.arg(folder(name).join("model")).arg("--plugins").arg(plugins()).args(extra);
    command
}

/// Every text, token for token and character for character.
fn like_transformers(name: &str) {
    like_transformers_on("cpu", name);
}

fn like_transformers_on(backend: &str, name: &str) {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder(name).join("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() >= 3 && cases.iter().any(|case| case["adapter"].is_string()));
    for (number, case) in cases.iter().enumerate() {
        let tokens: Vec<u64> =
            case["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let limit = case["max_tokens"].to_string();
        let prompt = case["prompt"].as_str().unwrap();
        let asked = ["--temperature", "0", "--max-tokens", &limit, "--prompt", prompt];
        let mut command = generate_on(backend, name, &asked);
        if let Some(adapter) = case["adapter"].as_str() {
            command.arg("--adapter").arg(folder(name).join(adapter));
        }
        let output = command.env("FINETUNE_LOG", "finetune_host=debug").output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{name} {number}: {log}");
        let got = log.split_once("tokens [").and_then(|(_, rest)| rest.split_once(']')).unwrap().0;
        let got: Vec<u64> = got.split(", ").map(|id| id.parse().unwrap()).collect();
        assert_eq!(got, tokens, "{name} {number}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), case["text"].as_str().unwrap());
    }
}

#[test]
fn gpt2_generates_like_transformers() {
    like_transformers("gpt2");
}

#[test]
fn llama_generates_like_transformers() {
    like_transformers("llama");
}

#[test]
fn mistral_generates_like_transformers() {
    like_transformers("mistral");
}

/// Caches that grow, positions that are known only when a program runs, windows: on MLX, where it is set up.
#[test]
fn mlx_plugin_generates_like_transformers() {
    for name in ["gpt2", "llama", "mistral"] {
        like_transformers_on("mlx", name);
    }
}

/// The same on candle.
#[test]
fn candle_generates_like_transformers() {
    for name in ["gpt2", "llama", "mistral"] {
        like_transformers_on(&finetune_tests::candle(), name);
    }
}

#[test]
fn the_seed_decides() {
    let text = |seed: &str| {
        let args = ["--prompt", "Hello", "--max-tokens", "24", "--temperature", "1", "--seed", seed];
        succeed(&mut generate("llama", &args))
    };
    let first = text("1");
    assert!(!first.is_empty());
    assert_eq!(first, text("1"));
    assert_ne!(first, text("2"));
}

/// The prompt may come by a pipe, and is the same then.
#[test]
fn a_prompt_is_read_from_standard_input() {
    let args = ["--temperature", "0", "--max-tokens", "8"];
    let said = succeed(generate("llama", &args).args(["--prompt", "Hello there"]));
    let mut command = generate("llama", &args);
    command.args(["--prompt", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Hello there").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), said);
}

#[test]
fn the_end_of_the_models_positions_is_said() {
    let prompt = "a b c d e f g h ".repeat(42);
    let args = ["--temperature", "0", "--max-tokens", "100000", "--prompt", &prompt];
    let output = generate("gpt2", &args).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("the model's 700 positions"), "{log}");
}

#[test]
#[cfg(unix)]
fn nobody_reading_is_no_failure() {
    let args = ["--temperature", "1", "--max-tokens", "100000", "--prompt", "Hello"];
    let mut command = generate("gpt2", &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("error"), "{log}");
}

/// A copy of a model whose files may be changed.
fn copied(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name).join("model")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn on_cpu(model: &Path, extra: &[&str]) -> (String, String) {
    let mut command = finetune(["generate", "--backend", "cpu", "--precision", "f32", "--temperature", "0"]);
    command.env("FINETUNE_LOG", "finetune_host=debug");
    let output =
        command.arg("--model").arg(model).arg("--plugins").arg(plugins()).args(extra).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    (String::from_utf8(output.stdout).unwrap(), log)
}

/// Chat models end a turn with another token than a text; `generation_config.json` lists both.
#[test]
fn every_end_token_of_the_generation_config_ends_the_text() {
    let dir = copied("llama");
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder("llama").join("expected.json")).unwrap()).unwrap();
    let (case, tokens, at) = expected["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["adapter"].is_null())
        .find_map(|case| {
            let tokens: Vec<u64> = serde_json::from_value(case["tokens"].clone()).unwrap();
            let at = (2..tokens.len().min(20)).find(|&at| !tokens[..at].contains(&tokens[at]))?;
            Some((case, tokens, at))
        })
        .expect("a text with a token that is new to it");
    let args = ["--max-tokens", "20", "--prompt", case["prompt"].as_str().unwrap()];
    let (_, log) = on_cpu(dir.path(), &args);
    assert!(!log.contains(&format!(" {at} tokens")), "{log}");
    let other = tokens.iter().max().unwrap() + 1;
    change(&dir.path().join("generation_config.json"), |json| {
        json["eos_token_id"] = serde_json::json!([other, tokens[at]])
    });
    let (_, log) = on_cpu(dir.path(), &args);
    assert!(log.contains(&format!(" {at} tokens")) && log.contains("ended by the model"), "{at}: {log}");
}

/// A model that was taught to chat may name no end of a turn: that of the template ends its answer.
#[test]
fn what_ends_a_turn_in_the_template_ends_an_answer() {
    let dir = copied("llama");
    let tokenizer = dir.path().join("tokenizer.json");
    let vocabulary: Value = serde_json::from_slice(&std::fs::read(&tokenizer).unwrap()).unwrap();
    let template = dir.path().join("t.jinja");
    let args = [
        "--chat",
        "--chat-template",
        template.to_str().unwrap(),
        "--max-tokens",
        "4",
        "--prompt",
        "The mill",
    ];
    let write = |end: &str| {
        let text = format!(
            "{{% for m in messages %}}{{{{ m.content }}}}{{% if m.role == 'assistant' %}}{end}{{% endif %}}{{% endfor %}}"
        );
        std::fs::write(&template, text).unwrap();
    };
    write("");
    let (_, log) = on_cpu(dir.path(), &args);
    let first = log.split_once("tokens [").and_then(|(_, rest)| rest.split_once([',', ']']));
    let first = first.unwrap_or_else(|| panic!("no tokens in {log}")).0;
    let first: u64 = first.parse().unwrap();
    let mut vocabulary = vocabulary["model"]["vocab"].as_object().unwrap().iter();
    let (end, _) = vocabulary.find(|(_, id)| id.as_u64() == Some(first)).unwrap();
    write(end);
    change(&tokenizer, |json| {
        let token = serde_json::json!({"id": first, "content": end, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false});
        json["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let (text, log) = on_cpu(dir.path(), &args);
    assert!(text.is_empty() && log.contains("ended by the model"), "{end}: {text:?}, {log}");
}

/// Ctrl-C ends it with what was said so far, and says so. This text has no end of its own.
#[test]
#[cfg(unix)]
fn an_interrupt_ends_it_with_what_was_said() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder("llama").join("expected.json")).unwrap()).unwrap();
    let prompt = expected["cases"][0]["prompt"].as_str().unwrap();
    let generate =
        |tokens: &str| generate("llama", &["--temperature", "0", "--prompt", prompt, "--max-tokens", tokens]);
    let mut child = generate("1000000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = vec![0; 64];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{log}");
    assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    let tokens = log.split_once("generated ").and_then(|(_, rest)| rest.split_once(" tokens")).unwrap().0;
    let said = String::from_utf8([said, output.stdout].concat()).unwrap();
    assert_eq!(said, succeed(&mut generate(&tokens.replace(',', ""))));
}

/// Rotary positions go on without an end, but the model has seen none beyond these.
#[test]
fn a_prompt_beyond_the_models_context_is_told() {
    let prompt = "a b c d ".repeat(1100);
    let (_, log) = on_cpu(&folder("llama").join("model"), &["--max-tokens", "1", "--prompt", &prompt]);
    assert!(log.contains("warning") && log.contains("4096 positions"), "{log}");
    let (_, log) = on_cpu(&folder("llama").join("model"), &["--max-tokens", "1", "--prompt", "a"]);
    assert!(!log.contains("warning"), "{log}");
}

#[test]
fn wrong_arguments_are_sentences() {
    for (args, word) in [
        (&["--prompt", "a", "--temperature", "-1"][..], "--temperature is -1"),
        (&["--prompt", "a", "--top-p", "0"], "--top-p is 0"),
        (&["--prompt", "a", "--max-tokens", "0"], "--max-tokens is 0"),
        (&["--prompt", "a", "--system", "b"], "give --chat"),
        (&["--prompt", "a", "--chat-template", "b"], "give --chat"),
        (&["--prompt", "a", "--chat", "--chat-template", "none.jinja"], "none.jinja"),
        (&["--prompt", "a", "--chat"], "no chat template"),
        (&["--prompt", ""], "the prompt is empty"),
        (&["--prompt", &"long ".repeat(800)], "the model has 700 positions"),
    ] {
        let message = fail(&mut generate("gpt2", args));
        assert!(message.contains(word), "{args:?}: {message}");
    }
}

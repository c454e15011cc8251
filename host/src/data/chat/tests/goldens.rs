use super::*;

/// 3 February 2025, as the script's `Day`.
const DAY: Duration = Duration::from_secs(1_738_540_800);

fn golden(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/goldens/data/chat/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn check(name: &str, at_least: usize) {
    let golden = golden(name);
    let specials = golden["specials"].as_object().unwrap().clone();
    let source = golden["template"].as_str().unwrap().to_owned();
    let template = ChatTemplate::build(vec![source], specials, UNIX_EPOCH + DAY).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= at_least, "{name} has {} cases", cases.len());
    for case in cases {
        let messages = case["messages"].clone();
        let conversation = Conversation::from_row(messages, Some(case["tools"].clone())).unwrap();
        let prompt = case["prompt"].as_bool().unwrap();
        let text = template.render(&conversation, prompt).unwrap_or_else(|e| panic!("{name}, {case}: {e}"));
        assert_eq!(text, case["text"].as_str().unwrap(), "{name}, {}", case["name"]);
        if case["blocks"].is_array() {
            let values = conversation.values().unwrap();
            let blocks = template.marked(&values, conversation.tools.as_deref(), prompt).unwrap().blocks;
            let blocks: Vec<[usize; 2]> = blocks.into_iter().map(|block| [block.start, block.end]).collect();
            assert_eq!(json!(blocks), case["blocks"], "{name}, {}", case["name"]);
        }
    }
    for case in golden["refused"].as_array().into_iter().flatten() {
        let conversation = Conversation::from_row(case["messages"].clone(), None).unwrap();
        let error = template.render(&conversation, false).unwrap_err().to_string();
        assert!(error.contains(case["message"].as_str().unwrap()), "{name}, {}: {error}", case["name"]);
    }
}

#[test]
fn qwen3_renders_as_in_transformers() {
    check("qwen3", 28);
}

#[test]
fn llama3_renders_as_in_transformers() {
    check("llama3", 14);
}

/// Tools, calls with ids, results; the template's own refusals come through.
#[test]
fn mistral_renders_as_in_transformers() {
    assert_eq!(golden("mistral")["refused"].as_array().unwrap().len(), 3);
    check("mistral", 24);
}

/// Asks for today's date by `strftime_now`.
#[test]
fn llama3_2_renders_as_in_transformers() {
    assert!(golden("llama3_2")["cases"][0]["text"].as_str().unwrap().contains("Today Date: 03 Feb 2025"));
    check("llama3_2", 22);
}

#[test]
fn smollm2_renders_as_in_transformers() {
    check("smollm2", 14);
}

/// Instructions in brackets, tools before the last user's message.
#[test]
fn bracketed_instructions_render_as_in_transformers() {
    check("instructions", 14);
}

/// Loops, methods, filters, printing of values, white space.
#[test]
fn the_template_language_is_that_of_transformers() {
    check("language", 14);
}

#[test]
fn generation_blocks_are_where_transformers_finds_them() {
    check("marked", 14);
}

/// Every golden conversation's turns: each ends with its end token, and holds what the message says.
#[test]
fn turns_are_found_in_every_golden_conversation() {
    for (name, end) in [
        ("qwen3", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("llama3_2", "<|eot_id|>"),
        ("mistral", "</s>"),
        ("smollm2", "<|im_end|>"),
        ("instructions", "</s>"),
    ] {
        let golden = golden(name);
        let template = ChatTemplate::new(
            golden["template"].as_str().unwrap(),
            golden["specials"].as_object().unwrap().clone(),
        )
        .unwrap();
        let specials = specials();
        assert_eq!(Shape::learn(&template, &specials).end_token(&specials), Some(end), "{name}");
        let mut found = 0;
        for case in golden["cases"].as_array().unwrap().iter().filter(|case| case["prompt"] == false) {
            let conversation =
                Conversation::from_row(case["messages"].clone(), Some(case["tools"].clone())).unwrap();
            let said =
                said(&template, &conversation).unwrap_or_else(|e| panic!("{name}, {}: {e}", case["name"]));
            let messages = conversation.messages.iter().filter(|m| Conversation::is_assistant(m));
            // Mistral's manner: a message that calls a tool says nothing else.
            let text = |m: &&Json| {
                !["instructions", "mistral", "llama3_2"].contains(&name) || m.get("tool_calls").is_none()
            };
            let content = |m: &Json| m["content"].as_str().unwrap_or("").to_owned();
            let contents: Vec<String> =
                messages.map(|m| if text(&m) { content(m) } else { String::new() }).collect();
            assert_eq!(said.len(), contents.len(), "{name}, {}", case["name"]);
            for (said, content) in said.iter().zip(contents) {
                let content = content.rsplit("</think>").next().unwrap().trim();
                assert!(said.contains(content) && said.ends_with(end), "{name}, {}: {said:?}", case["name"]);
                assert!(!said.contains("<|im_start|>") && !said.contains("[INST]"), "{name}: {said:?}");
                assert!(!said.contains("_header_id|>"), "{name}: {said:?}");
                found += 1;
            }
        }
        assert!(found >= 6, "{name}");
    }
}

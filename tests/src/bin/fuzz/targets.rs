//! What reads bytes from outside, one row each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use finetune_host::data::{ChatTemplate, Conversation, Dataset, Tokenizer};
use finetune_host::models::{self, Config, ForwardOptions, loss_program};
use finetune_host::plugins::manifest;
use finetune_host::precision::Precision;
use finetune_host::train::Settings;
use finetune_host::weights::{ModelFiles, Tensors, WeightDType, convert::convert, peft::PeftConfig};
use finetune_plugin_api::conformance::{Random, cases, random_program};
use finetune_plugin_api::program::{DType, lower, text};
use finetune_tests::goldens;

/// One reader of outside bytes.
pub struct Target {
    pub name: &'static str,
    /// Must return for every input; what it finds wrong with a valid one it says by a panic. The folder is its
    /// own, for readers of files.
    pub run: fn(&[u8], &Path),
    /// Valid inputs to begin from, at least one.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "program-text", run: read_program, corpus: program_texts },
    Target { name: "safetensors", run: read_safetensors, corpus: weight_files },
    Target { name: "gguf", run: read_gguf, corpus: gguf_files },
    Target { name: "weights-index", run: read_index, corpus: indices },
    Target { name: "adapter-config", run: read_adapter_config, corpus: adapter_configs },
    Target { name: "model-config", run: read_model_config, corpus: model_configs },
    Target { name: "tokenizer", run: read_tokenizer, corpus: tokenizers },
    Target { name: "rows", run: read_rows, corpus: rows },
    Target { name: "chat-rows", run: read_chat_rows, corpus: chat_rows },
    Target { name: "chat-template", run: read_chat_template, corpus: chat_templates },
    Target { name: "settings", run: read_settings, corpus: settings },
    Target { name: "library", run: read_library, corpus: libraries },
];

fn read_program(input: &[u8], _: &Path) {
    let Ok(program) = text::parse(&String::from_utf8_lossy(input)) else { return };
    let printed = text::print(&program);
    let again = text::parse(&printed).expect("a printed program parses");
    assert_eq!(text::print(&again), printed, "printing is canonical");
    // Shapes beyond what u32 positions can name have no decomposition; that is an error, never a panic.
    if let Ok(lowered) = lower(&program, &|_| false) {
        text::parse(&text::print(&lowered)).expect("a lowered program is valid");
    }
}

fn program_texts() -> Vec<Vec<u8>> {
    let mut rng = Random::new(1);
    let random = (0..200).map(|_| random_program(&mut rng, 8));
    let programs = cases().into_iter().map(|case| case.program).step_by(7).chain(random);
    programs.map(|program| text::print(&program).into_bytes()).collect()
}

fn read_safetensors(input: &[u8], folder: &Path) {
    let path = written(folder, "model.safetensors", input);
    if let Ok(tensors) = Tensors::open_file(&path) {
        read_tensors(&tensors, input.len());
    }
}

/// Every tensor that a header promises is there to its last byte.
fn read_tensors(tensors: &Tensors, most: usize) {
    for name in tensors.names() {
        let view = tensors.get(name).expect("a listed tensor is there");
        assert!(view.bytes().len() <= most, "{name} is larger than its file");
        assert_eq!(view.bytes().as_slice().len(), view.bytes().len());
        if view.encoding().is_convertible() {
            let floats = convert(&view, WeightDType::F32).expect("a float tensor converts");
            assert_eq!(floats.len(), 4 * view.elements());
        }
    }
}

/// Small files: of the golden ones an adapter, and one with every float type, a scalar and an empty tensor.
fn weight_files() -> Vec<Vec<u8>> {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"#,
        r#""a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#,
        r#""b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"#,
        r#""c":{"dtype":"F16","shape":[],"data_offsets":[14,16]},"#,
        r#""d":{"dtype":"I64","shape":[0,4],"data_offsets":[16,16]}}"#
    );
    let length = (header.len() as u64).to_le_bytes();
    let small = [&length[..], header.as_bytes(), &[0x3f; 16]].concat();
    vec![small, golden("llama2/lora-names/adapter/adapter_model.safetensors")]
}

/// Config, tensors, tokenizer and chat template, each as far as the others let it.
fn read_gguf(input: &[u8], folder: &Path) {
    let path = written(folder, "model.gguf", input);
    let Ok(files) = ModelFiles::open(&path) else { return };
    read_tensors(files.tensors().expect("a GGUF file has tensors"), input.len());
    read_model_config(serde_json::Value::from(files.config().clone()).to_string().as_bytes(), folder);
    if let Ok(tokenizer) = Tokenizer::from_model(&path) {
        read_texts(&tokenizer);
    }
    if let Ok(Some(template)) = ChatTemplate::from_model(&path) {
        render(&template);
    }
}

/// Nearly all header; and one with blocks.
fn gguf_files() -> Vec<Vec<u8>> {
    ["tiny-bytes", "tiny-pieces", "tiny-pieces", "tiny-bytes", "q4_1"]
        .map(|name| golden(&format!("gguf-kinds/{name}.gguf")))
        .into()
}

fn read_index(input: &[u8], folder: &Path) {
    let shard = folder.join("a.safetensors");
    if !shard.exists() {
        written(folder, "a.safetensors", &weight_files()[0]);
    }
    let path = written(folder, "model.safetensors.index.json", input);
    if let Ok(tensors) = Tensors::open_index(&path) {
        read_tensors(&tensors, usize::MAX);
    }
}

fn indices() -> Vec<Vec<u8>> {
    let small = r#"{"metadata":{"total_size":16},"weight_map":{"a":"a.safetensors","b":"a.safetensors",
        "c":"a.safetensors","d":"a.safetensors"}}"#;
    vec![small.into(), golden("llama2/model-sharded/model.safetensors.index.json")]
}

fn read_adapter_config(input: &[u8], _: &Path) {
    let path = Path::new("adapter_config.json");
    let Ok(config) = PeftConfig::parse(input, path) else { return };
    for module in ["", "lm_head", "model.layers.0.self_attn.q_proj", "transformer.h.11.attn.c_attn"] {
        // An expression that takes too many steps is an error, too.
        if let (Ok(_), Ok(rank), Ok(_)) =
            (config.matches(module), config.rank_of(module), config.scale_of(module))
        {
            assert!(rank > 0, "{module}");
        }
    }
    let written = config.to_json().to_string();
    let again = PeftConfig::parse(written.as_bytes(), path).expect("a written config is read");
    assert_eq!(again, config, "writing keeps everything: {written}");
}

fn adapter_configs() -> Vec<Vec<u8>> {
    let patterns = r#"{"peft_type":"LORA","r":4,"lora_alpha":2.5,"lora_dropout":0.1,"target_modules":".*\\.(q|v)_proj",
        "exclude_modules":["layers.0.self_attn.q_proj"],"rank_pattern":{"^model.layers.1":8,"q_proj":2},
        "alpha_pattern":{"v_proj":1.5},"use_rslora":true,"init_lora_weights":"gaussian","task_type":"CAUSAL_LM"}"#;
    let cases = ["gpt2/lora-all-linear", "llama2/lora-attention", "mistral/lora-completion"];
    let golden = cases.map(|case| golden(&format!("{case}/adapter/adapter_config.json")));
    golden.into_iter().chain([patterns.into()]).collect()
}

fn read_model_config(input: &[u8], _: &Path) {
    let Ok(json) = serde_json::from_slice(input) else { return };
    let Ok(model) = Config::new(&json).and_then(|config| models::from_config(&config)) else { return };
    let (tensors, linears) = (model.tensors(), model.linears());
    for linear in &linears {
        let named = |name: &str| name.strip_suffix(".weight") == Some(&linear.path);
        assert!(
            linear.head || tensors.iter().any(|tensor| named(&tensor.name)),
            "{} has no weight",
            linear.path
        );
    }
    if tensors.len() > 100 {
        return;
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let stored = &|_: &str| DType::F32;
        let options =
            ForwardOptions { rows: 2, length: 3, precision, lora: None, full: true, dropout: true, stored };
        // Sizes that are too large for a program are an error.
        if let Ok(program) = loss_program(model.as_ref(), &options) {
            assert_eq!(program.trained.len(), tensors.len(), "every tensor is trained");
        }
    }
}

fn model_configs() -> Vec<Vec<u8>> {
    let models = ["gpt2", "gpt2-options", "llama1", "llama2", "llama3", "llama-bias-head-dim", "mistral"];
    models.map(|model| golden(&format!("{model}/model/config.json"))).into()
}

fn read_tokenizer(input: &[u8], folder: &Path) {
    written(folder, "tokenizer.json", input);
    if let Ok(tokenizer) = Tokenizer::from_folder(folder) {
        read_texts(&tokenizer);
    }
}

fn read_texts(tokenizer: &Tokenizer) {
    for text in ["", "Hello, wörld!\n\n  <s>", "\u{1f600}\0a"] {
        if let Ok(ids) = tokenizer.encode(text, 5) {
            assert!(ids.len() <= 5, "{text:?}: {ids:?}");
        }
    }
}

fn tokenizers() -> Vec<Vec<u8>> {
    ["gpt2", "llama2", "mistral-no-window"]
        .map(|model| golden(&format!("{model}/model/tokenizer.json")))
        .into()
}

fn read_rows(input: &[u8], folder: &Path) {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        Tokenizer::from_folder(&goldens().join("llama2/model")).expect("the golden tokenizer can be read")
    });
    for name in ["data.jsonl", "data.txt"] {
        let path = written(folder, name, input);
        let Ok(data) = Dataset::open(&path, tokenizer, 16) else { continue };
        for index in 0..data.len() {
            let example = data.example(index).expect("what was checked on opening is read");
            assert!(example.tokens.len() <= 17 && example.inputs() <= 16, "{name}: example {index}");
        }
    }
}

fn rows() -> Vec<Vec<u8>> {
    vec![
        golden("text/completion.jsonl"),
        golden("text/train.jsonl"),
        "\u{feff}{\"text\": \"a\\u00e9\\ud83d\\ude00\"}\r\n\n{\"completion\": \"\", \"prompt\": \"\", \"id\": [1]}".into(),
    ]
}

/// Rows that are conversations; a template may fail on one when it is drawn, with an error.
fn read_chat_rows(input: &[u8], folder: &Path) {
    static TOKENIZER: OnceLock<(Tokenizer, ChatTemplate)> = OnceLock::new();
    let (tokenizer, template) = TOKENIZER.get_or_init(|| {
        let model = goldens().join("llama2/model");
        let template = goldens().join("chat/train/unmarked.jinja");
        let tokenizer = Tokenizer::from_folder(&model).expect("the golden tokenizer can be read");
        (tokenizer, ChatTemplate::from_file(&template, &model).expect("the golden template can be read"))
    });
    let path = written(folder, "data.jsonl", input);
    let Ok(data) = Dataset::open_chat(&path, tokenizer, Some(template), 16) else { return };
    for index in 0..data.len() {
        if let Ok(example) = data.example(index) {
            assert!(example.tokens.len() <= 17 && example.inputs() <= 16, "example {index}");
        }
    }
}

fn chat_rows() -> Vec<Vec<u8>> {
    let rows = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}], "weight": 0}], "tools": [{"name": "f"}]}"#;
    let shared = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    vec![golden("chat/train/train.jsonl"), rows.replace('\n', " ").into(), shared.into()]
}

fn read_chat_template(input: &[u8], _: &Path) {
    let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(input), Default::default()) else { return };
    render(&template);
}

fn render(template: &ChatTemplate) {
    let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let messages = vec![message("user", "a"), message("assistant", "b")];
    // What a template refuses or does not come to the end of is an error.
    let _ = template.render(&Conversation { messages, tools: None }, true);
}

fn chat_templates() -> Vec<Vec<u8>> {
    let json = ["qwen3", "llama3", "smollm2", "language"].map(|name| {
        let golden: serde_json::Value =
            serde_json::from_slice(&golden(&format!("chat/{name}.json"))).expect("a golden is JSON");
        golden["template"].as_str().expect("a golden has its template").into()
    });
    json.into_iter().chain([golden("chat/train/template.jinja")]).collect()
}

fn read_settings(input: &[u8], _: &Path) {
    let path = Path::new("run.toml");
    let Ok(settings) = Settings::from_toml(&String::from_utf8_lossy(input), path) else { return };
    if settings.clone().resolve("run".into()).is_err() {
        return;
    }
    let written = settings.to_toml().expect("settings from a file can be written to one");
    let again = Settings::from_toml(&written, path).expect("a written file is read");
    assert_eq!(again, settings, "writing keeps everything: {written}");
}

fn settings() -> Vec<Vec<u8>> {
    let lora = "model = 'm'\ndata = \"d.jsonl\"\nvalid = 'v'\nmethod = \"lora\"\nrank = 8\nalpha = 16.0\n\
                targets = 'attention'\ndropout = 0.1\nbatch = 4\nmicro-batch = 2\nseq-len = 64\nsteps = 10\n\
                plugins = ['p', 'q']\n";
    let full = "model = 'm'\ndata = 'd'\nmethod = 'full'\nepochs = 2\nlr = 1e-3\nschedule = 'cosine'\nwarmup = 3\n\
                weight-decay = 0.1\nbeta1 = 0.9\nbeta2 = 0.99\neps = 1e-8\nclip = 0.0\nseed = 7\nno-shuffle = true\n\
                precision = 'f32'\nbackend = 'cpu:0'\nsave-every = 0\neval-every = 5\n";
    vec![lora.into(), full.into()]
}

fn read_library(input: &[u8], folder: &Path) {
    if let Ok(manifest) = manifest::read(&written(folder, "plugin.so", input)) {
        assert!(!manifest.name.is_empty());
    }
}

fn libraries() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/tests/libraries");
    ["macos-arm64.dylib", "macos-both.dylib", "windows-x86_64.dll"]
        .map(|name| read(&folder.join(name)))
        .into()
}

fn written(folder: &Path, name: &str, input: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, input).expect("the temporary folder can be written");
    path
}

fn golden(name: &str) -> Vec<u8> {
    read(&goldens().join(name))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

//! The rules of who may know whom (ARCHITECTURE.md), read off the sources.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust source below these paths, with its text.
fn sources(paths: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = paths.iter().map(|path| root().join(path)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "{paths:?} hold no sources; the rule would hold for nothing");
    found
}

/// Whether a word stands in the text for itself, in any case.
fn has_word(text: &str, word: &str) -> bool {
    let lower = text.to_lowercase();
    let bounded = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    lower.match_indices(word).any(|(at, found)| {
        bounded(lower[..at].chars().next_back()) && bounded(lower[at + found.len()..].chars().next())
    })
}

fn assert_no_words(paths: &[&str], words: &[&str]) {
    for (path, text) in sources(paths) {
        for word in words {
            assert!(!has_word(&text, word), "{} speaks of {word:?}", path.display());
        }
    }
}

#[test]
fn the_loop_the_models_and_what_they_stand_on_name_no_back_end() {
    let rooms = [
        "train",
        "models",
        "adapters",
        "optim",
        "data",
        "weights",
        "autodiff",
        "autodiff.rs",
        "transform",
        "transform.rs",
    ];
    let rooms: Vec<String> = rooms.iter().map(|room| format!("host/src/{room}")).collect();
    let rooms: Vec<&str> =
        rooms.iter().map(String::as_str).filter(|room| root().join(room).exists()).collect();
    assert!(rooms.len() >= 8, "rooms have moved: {rooms:?}");
    assert_no_words(&rooms, &["mlx", "candle", "metal", "cuda"]);
}

#[test]
fn the_plugins_room_names_no_model() {
    assert_no_words(&["host/src/plugins"], &["gpt2", "llama", "mistral", "lora"]);
}

#[test]
fn a_plugin_depends_on_the_plugin_api_and_never_on_the_host() {
    let mut plugins = 0;
    for entry in std::fs::read_dir(root().join("plugins")).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        assert!(text.contains("finetune-plugin-api"), "{}", manifest.display());
        assert!(!text.contains("finetune-host"), "{} depends on the host", manifest.display());
        plugins += 1;
    }
    assert!(plugins > 0);
    let api = std::fs::read_to_string(root().join("plugin-api/Cargo.toml")).unwrap();
    assert!(!api.contains("finetune-host"), "plugin-api depends on the host");
}

/// `unsafe` is allowed where the reason for it is looked for: map, boundary, kernels. (The loader's is behind
/// `abi_stable`.)
#[test]
fn unsafe_code_stays_in_its_rooms() {
    // The allocator bounds what a stranger's chat template may take, which nothing else in one process can.
    let rooms = [
        "host/src/allowance.rs",
        "host/src/weights/map.rs",
        "plugin-api/src/abi",
        "plugin-api/src/export",
        "plugins",
    ];
    for (path, text) in sources(&["host/src", "plugin-api/src", "plugins", "xtask/src"]) {
        let allowed = rooms.iter().any(|room| path.starts_with(root().join(room)));
        let used = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {"));
        assert!(allowed || !used, "{} has unsafe code", path.display());
    }
}

//! The product against transformers, PEFT and torch, number by number (see `goldens/README.md`).

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_tests::{assert_close, events, finetune, goldens, json_lines, number, plugins, succeed};
use safetensors::SafeTensors;
use serde_json::Value;

/// A back end that is held to the goldens.
#[derive(Clone, Copy)]
struct Backend {
    name: &'static str,
    /// How far a loss may be from torch's in f32, relative.
    loss: f64,
    /// The folder for what MLX compiles, if it is to.
    compiled: Option<&'static Path>,
}

impl Backend {
    fn finetune<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = finetune(arguments);
        if let Some(folder) = self.compiled {
            command.env("FINETUNE_MLX_COMPILE", "1").env("TMPDIR", folder);
        }
        command
    }
}

const CPU: Backend = Backend { name: "cpu", loss: 1e-4, compiled: None };
const MLX: Backend = Backend { name: "mlx", loss: 5e-4, compiled: None };

fn candle() -> Backend {
    Backend { name: finetune_tests::candle().leak(), loss: 5e-4, compiled: None }
}

/// The gradient's norm is a sum over far more terms than the loss.
const GRADIENT: f64 = 1e-3;

/// The cases that tests below name; together they must be all that there are.
const CASES: [&str; 10] = [
    "gpt2",
    "gpt2-options",
    "llama-bf16-file",
    "llama-bias-head-dim",
    "llama-f16-file",
    "llama1",
    "llama2",
    "llama3",
    "mistral",
    "mistral-no-window",
];

macro_rules! cases {
    ($($test:ident $case:literal;)*) => {
        $(
            #[test]
            fn $test() {
                assert!(CASES.contains(&$case));
                case($case, CPU);
            }
        )*

        /// The same through candle.
        mod candle_plugin {
            $(
                #[test]
                fn $test() {
                    super::case($case, super::candle());
                }
            )*
        }

        /// The same on MLX, where it is set up.
        mod mlx_plugin {
            $(
                #[test]
                fn $test() {
                    super::case($case, super::MLX);
                }
            )*
        }
    };
}

cases! {
    gpt2 "gpt2";
    gpt2_options "gpt2-options";
    llama_from_a_bf16_file "llama-bf16-file";
    llama_with_biases_and_head_dim "llama-bias-head-dim";
    llama_from_an_f16_file "llama-f16-file";
    llama1 "llama1";
    llama2 "llama2";
    llama3 "llama3";
    mistral "mistral";
    mistral_without_window "mistral-no-window";
}

/// Programs as MLX's compiler makes them, which is what a GPU runs; on a processor it is not used by default.
#[test]
fn mlx_plugin_compiles_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let compiled = Some(&*folder.path().to_owned().leak());
    for name in ["gpt2", "llama3"] {
        case(name, Backend { compiled, ..MLX });
    }
    let kernels = folder.path().join("mlx");
    assert!(kernels.read_dir().is_ok_and(|mut found| found.next().is_some()), "nothing was compiled");
}

#[test]
fn every_case_is_tested() {
    let mut found: Vec<String> = std::fs::read_dir(goldens())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("model").exists() && entry.path().join("expected.json").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, CASES);
}

fn case(name: &str, backend: Backend) {
    let case = goldens().join(name);
    let expected: Value =
        serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
    let model = case.join(expected["model"].as_str().unwrap());
    evaluates_like_transformers(&case, &model, &expected, backend);
    for run in expected["runs"].as_array().unwrap() {
        trains_like_torch(name, &case, &model, run, backend);
    }
    if let Some(run) = expected["runs"].get(0) {
        for (what, model) in variants(&case, &model, &expected) {
            trains_like_torch(&format!("{name} as {what}"), &case, model.path(), run, backend);
        }
    }
}

/// The first batch's loss, through `finetune eval` on a file with just its rows.
fn evaluates_like_transformers(case: &Path, model: &Path, expected: &Value, backend: Backend) {
    let batch = &expected["batch"];
    let rows =
        batch["rows"].as_u64().map_or_else(|| batch["rows"].as_array().unwrap().len(), |rows| rows as usize);
    let data = case.join(batch["data"].as_str().unwrap());
    let text = std::fs::read_to_string(data).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first.jsonl");
    let lines: Vec<&str> = text.lines().take(rows).collect();
    std::fs::write(&first, lines.join("\n")).unwrap();
    let mut command = backend.finetune(["eval", "--json", "--backend", backend.name, "--precision", "f32"]);
    command.arg("--seq-len").arg(batch["seq_len"].to_string()).arg("--plugins").arg(plugins());
    let lines = json_lines(&succeed(command.arg("--model").arg(model).arg("--data").arg(&first)));
    let eval = events(&lines, "eval")[0];
    assert_eq!(eval["tokens"], batch["tokens"]);
    assert_close(number(eval, "loss"), number(batch, "loss"), backend.loss, "loss of the first batch");
}

fn trains_like_torch(name: &str, case: &Path, model: &Path, run: &Value, backend: Backend) {
    let what = format!("{name}, {}", run["name"].as_str().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let lines = json_lines(&succeed(command(case, model, run, &out, backend).arg("--json")));
    let steps = events(&lines, "step");
    let wanted = run["steps"].as_array().unwrap();
    assert_eq!(steps.len(), wanted.len(), "{what}: steps");
    for (i, (got, want)) in steps.iter().zip(wanted).enumerate() {
        let at = format!("{what}, step {}", want["step"]);
        assert_eq!(got["step"], want["step"], "{at}");
        assert_eq!(got["tokens"], want["tokens"], "{at}");
        assert_close(number(got, "lr"), number(want, "lr"), 1e-9, &format!("{at}: lr"));
        check(run, "loss", Some(i), number(got, "loss"), number(want, "loss"), backend.loss, &at);
        check(run, "grad_norm", Some(i), number(got, "grad_norm"), number(want, "grad_norm"), GRADIENT, &at);
    }
    let evals = events(&lines, "eval");
    for (key, eval) in [("eval_before", evals[0]), ("eval_after", evals[evals.len() - 1])] {
        assert_eq!(eval["tokens"], run[key]["tokens"], "{what}: {key}");
        check(
            run,
            key,
            None,
            number(eval, "loss"),
            number(&run[key], "loss"),
            backend.loss,
            &format!("{what}: {key}"),
        );
    }
    if let Some(adapter) = run["adapter_final"].as_str() {
        same_adapter(&what, &out.join("adapter"), &case.join(adapter));
    }
}

/// Within the relative tolerance in f32, within the derived absolute one of the golden in bf16.
fn check(run: &Value, key: &str, index: Option<usize>, got: f64, want: f64, relative: f64, what: &str) {
    if run["flags"]["precision"] != "bf16" {
        return assert_close(got, want, relative, &format!("{what}: {key}"));
    }
    let tolerance = &run["bf16"]["tolerance"][key];
    let tolerance = index.map_or(tolerance, |index| &tolerance[index]).as_f64().unwrap();
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: {key}: {got}, expected {want} within {tolerance} in bf16"
    );
}

fn command(case: &Path, model: &Path, run: &Value, out: &Path, backend: Backend) -> Command {
    let mut command = backend.finetune(["train", "--backend", backend.name, "--save-every", "5"]);
    command.arg("--plugins").arg(plugins()).arg("--model").arg(model).arg("--out").arg(out);
    for key in ["data", "valid", "adapter"] {
        if let Some(path) = run[key].as_str() {
            command.arg(format!("--{key}")).arg(case.join(path));
        }
    }
    for (flag, value) in run["flags"].as_object().unwrap() {
        match value {
            Value::Bool(true) => command.arg(format!("--{flag}")),
            Value::String(value) => command.arg(format!("--{flag}")).arg(value),
            value => command.arg(format!("--{flag}")).arg(value.to_string()),
        };
    }
    command
}

/// Trained adapters agree with PEFT's within what f32 noise and AdamW make of each other in 12 steps.
fn same_adapter(what: &str, got: &Path, want: &Path) {
    let [got, want] = [got, want].map(|dir| std::fs::read(dir.join("adapter_model.safetensors")).unwrap());
    let (got, want) = (SafeTensors::deserialize(&got).unwrap(), SafeTensors::deserialize(&want).unwrap());
    let (mut got_names, mut want_names) = (got.names(), want.names());
    got_names.sort();
    want_names.sort();
    assert_eq!(got_names, want_names, "{what}");
    for name in want_names {
        let [a, b] = [&got, &want].map(|file| floats(file.tensor(name).unwrap().data()));
        assert_eq!(a.len(), b.len(), "{what}: {name}");
        let distance: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let norm: f64 = b.iter().map(|b| b * b).sum::<f64>().sqrt();
        assert!(distance <= 1e-3 * norm, "{what}: {name} is {distance} from PEFT's, whose norm is {norm}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

/// The same model saved in other ways: other spellings of its config, sharded, without the prefix.
fn variants(case: &Path, model: &Path, expected: &Value) -> Vec<(String, tempfile::TempDir)> {
    let names = |key: &str| expected[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    let configs = names("configs").filter(|name| *name != "config.json").map(|name| (model.to_owned(), name));
    let folders = names("same_models").map(|folder| (case.join(folder), "config.json"));
    let variant = |(folder, config): (PathBuf, &str)| {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        std::fs::copy(folder.join(config), copy.path().join("config.json")).unwrap();
        (format!("{} with {config}", folder.file_name().unwrap().to_string_lossy()), copy)
    };
    configs.chain(folders).map(variant).collect()
}

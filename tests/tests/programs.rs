//! The programs that the host writes, run by the reference interpreter in f64, against torch: loss and every
//! gradient of every golden model. No plugin has a part in it, so a failure here is the host's own.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_host::autodiff::{self, gradients};
use finetune_host::models::{self, Architecture, Config, ForwardOptions, loss_program};
use finetune_host::precision::Precision;
use finetune_host::weights::{ModelFolder, Tensors, WeightDType, convert};
use finetune_plugin_api::program::{DType, NativeOps, Program, lower};
use finetune_plugin_api::reference::{Rounding, Tensor, run_named};
use finetune_tests::{assert_close, goldens, number};
use serde_json::Value;

/// f32 torch against f64: what f32 loses over a few layers.
const GRADIENT: f64 = 2e-4;

/// Both ways of giving attention its gradient, and with every composite written out.
#[test]
fn losses_and_gradients_are_torchs() {
    let mut checked = 0;
    for entry in std::fs::read_dir(goldens()).unwrap() {
        let case = entry.unwrap().path();
        let Ok(expected) = std::fs::read(case.join("expected.json")) else { continue };
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let folder = ModelFolder::open(&case.join(expected["model"].as_str().unwrap())).unwrap();
        let config = Config::new(&Value::Object(folder.config().clone())).unwrap();
        let model = models::from_config(&config).unwrap();
        for attention_lse in [true, false] {
            let program = program(model.as_ref(), &expected, attention_lse);
            compare(&case, model.as_ref(), &folder, &program, &expected);
            if attention_lse {
                let simple = lower(&program, &|node| NativeOps::none().has(node)).unwrap();
                compare(&case, model.as_ref(), &folder, &simple, &expected);
            }
        }
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} golden models were found");
}

fn program(model: &dyn Architecture, expected: &Value, attention_lse: bool) -> Program {
    let ids = expected["batch"]["input_ids"].as_array().unwrap();
    let options = ForwardOptions {
        rows: ids.len(),
        length: ids[0].as_array().unwrap().len(),
        precision: Precision::F32,
        lora: None,
        full: true,
        dropout: false,
        stored: &|_| DType::F32,
    };
    let mut forward = loss_program(model, &options).unwrap();
    let wrt: Vec<_> = forward.trained.iter().map(|(_, value)| *value).collect();
    let found =
        gradients(&mut forward.builder, forward.loss, &wrt, autodiff::Options { attention_lse }).unwrap();
    forward.builder.output("loss", forward.loss);
    for ((name, _), gradient) in forward.trained.iter().zip(found) {
        forward.builder.output(&format!("grad.{name}"), gradient);
    }
    forward.builder.finish().unwrap()
}

fn compare(case: &Path, model: &dyn Architecture, folder: &ModelFolder, program: &Program, expected: &Value) {
    let case_name = case.file_name().unwrap().to_string_lossy().into_owned();
    let args = arguments(model, folder, program, &expected["batch"]);
    let outcome = run_named(program, &args, Rounding::None).unwrap();
    let tokens = number(&expected["batch"], "tokens");
    let loss = outcome.output(program, "loss").unwrap().floats()[0] / tokens;
    assert_close(loss, number(&expected["batch"], "loss"), 1e-5, &format!("{case_name}: loss"));
    let golden = Tensors::open_file(&case.join("expected.safetensors")).unwrap();
    let mut compared = 0;
    for output in program.outputs() {
        let Some(view) = golden.get(&output.name) else { continue };
        let want = floats(&convert::convert(&view, WeightDType::F32).unwrap());
        let got = outcome.output(program, &output.name).unwrap().floats();
        assert_eq!(got.len(), want.len(), "{case_name}: {}", output.name);
        let distance = got.iter().zip(&want).map(|(got, want)| (got / tokens - want).powi(2)).sum::<f64>().sqrt();
        let norm = want.iter().map(|want| want * want).sum::<f64>().sqrt();
        assert!(
            distance <= GRADIENT * norm.max(1e-4),
            "{case_name}: {} is {distance:e} from torch's, whose norm is {norm:e}",
            output.name
        );
        compared += 1;
    }
    let goldens = golden.names().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(compared, goldens, "{case_name}: gradients that were compared");
}

fn arguments(
    model: &dyn Architecture,
    folder: &ModelFolder,
    program: &Program,
    batch: &Value,
) -> Vec<(String, Tensor)> {
    let computed: BTreeMap<_, _> = model.computed().into_iter().collect();
    let numbers = |key: &str| -> Vec<f64> {
        let rows = batch[key].as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().map_or(std::slice::from_ref(row), Vec::as_slice))
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    let whole = |key: &str| numbers(key).iter().map(|&number| number as u32).collect::<Vec<u32>>();
    let argument = |name: &str| {
        let ty = program.ty(program.arg(name).unwrap().value);
        let shape = &ty.shape;
        let tensor = match name {
            "tokens" => Tensor::u32(shape, whole("input_ids")),
            "targets" => Tensor::u32(shape, whole("target_ids")),
            "weights" => Tensor::float(DType::F32, shape, numbers("weights")),
            "valid" => Tensor::u32(shape, whole("lengths")),
            "positions" => Tensor::u32(shape, (0..shape[0]).flat_map(|_| 0..shape[1] as u32).collect()),
            name => {
                let values = match computed.get(name) {
                    Some(values) => values.iter().map(|&value| f64::from(value)).collect(),
                    None => weight(folder, name),
                };
                Tensor::float(DType::F32, shape, values)
            }
        };
        (name.to_owned(), tensor.unwrap())
    };
    program.args().iter().map(|arg| argument(&arg.name)).collect()
}

fn weight(folder: &ModelFolder, name: &str) -> Vec<f64> {
    let view = folder.tensors().unwrap().get(name).unwrap_or_else(|| panic!("no tensor {name}"));
    floats(&convert::convert(&view, WeightDType::F32).unwrap())
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

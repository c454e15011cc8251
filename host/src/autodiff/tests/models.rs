//! Gradients of whole models against transformers': every tensor of every family, on the reference interpreter.

use std::path::{Path, PathBuf};

use finetune_plugin_api::program::{DType, NativeOps, Program, TensorType};
use finetune_plugin_api::reference::{Rounding, Tensor, run};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::autodiff::{Options, gradients};
use crate::models::{self, Architecture, Config, ForwardOptions};
use crate::precision::Precision;
use crate::transform;
use crate::weights::ModelFolder;

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data").join(case)
}

fn floats(bytes: &[u8], shape: &[usize]) -> Tensor {
    let values = bytes.chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())));
    Tensor::float(DType::F32, shape, values.collect()).unwrap()
}

/// The rows of a batch of the golden as one list of numbers.
fn rows(batch: &Value, key: &str) -> Vec<f64> {
    let rows = batch[key].as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap())).collect()
}

/// An argument of the program: an input from the batch, a computed buffer, or a tensor of the model.
fn argument(
    name: &str,
    ty: &TensorType,
    batch: &Value,
    model: &dyn Architecture,
    files: &ModelFolder,
) -> Tensor {
    let whole =
        |values: Vec<f64>| Tensor::u32(&ty.shape, values.into_iter().map(|v| v as u32).collect()).unwrap();
    match name {
        "tokens" => whole(rows(batch, "input_ids")),
        "targets" => whole(rows(batch, "target_ids")),
        "weights" => Tensor::float(DType::F32, &ty.shape, rows(batch, "weights")).unwrap(),
        "positions" => whole((0..ty.elements()).map(|i| (i % ty.shape[1]) as f64).collect()),
        "valid" => {
            let lengths = batch["lengths"].as_array().unwrap().iter();
            whole(lengths.map(|v| v.as_f64().unwrap()).collect())
        }
        name => match model.computed().into_iter().find(|(known, _)| known == name) {
            Some((_, values)) => {
                Tensor::float(DType::F32, &ty.shape, values.into_iter().map(f64::from).collect()).unwrap()
            }
            None => {
                let view = files.tensors().unwrap().require(name, &ty.shape).unwrap();
                floats(view.bytes().as_slice(), &ty.shape)
            }
        },
    }
}

/// The batch's summed loss and the gradient of every trained tensor; and the names of those.
fn program(model: &dyn Architecture, rows: usize, length: usize) -> (Program, Vec<String>) {
    let options = ForwardOptions {
        rows,
        length,
        precision: Precision::F32,
        lora: None,
        full: true,
        dropout: false,
        stored: &|_| DType::F32,
    };
    let built = models::loss_program(model, &options).unwrap();
    let mut b = built.builder;
    b.output("loss", built.loss);
    let (names, wrt): (Vec<String>, Vec<_>) = built.trained.into_iter().unzip();
    let found = gradients(&mut b, built.loss, &wrt, Options { attention_lse: true }).unwrap();
    for (name, gradient) in names.iter().zip(found) {
        b.output(name, gradient);
    }
    (b.finish().unwrap(), names)
}

fn check(case: &str) {
    let folder = folder(case);
    let files = ModelFolder::open(&folder.join("model")).unwrap();
    let model = models::from_config(&Config::new(&Value::Object(files.config().clone())).unwrap()).unwrap();
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let batch = &expected["batch"];
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();

    let length = batch["seq_len"].as_u64().unwrap() as usize;
    let (program, names) = program(model.as_ref(), batch["rows"].as_array().unwrap().len(), length);
    let args = program.args().iter();
    let args: Vec<_> =
        args.map(|arg| argument(&arg.name, program.ty(arg.value), batch, model.as_ref(), &files)).collect();
    let outcome = run(&program, &args, Rounding::None).unwrap();
    let core_only = transform::for_device(&program, &NativeOps::none()).unwrap();
    let lowered = run(&core_only, &args, Rounding::None).unwrap();
    for (whole, lowered) in outcome.outputs.iter().zip(&lowered.outputs) {
        for (whole, lowered) in whole.floats().iter().zip(lowered.floats()) {
            assert!(
                (whole - lowered).abs() <= 1e-9 * whole.abs().max(1.0),
                "{case}: {whole}, lowered {lowered}"
            );
        }
    }

    let tokens = batch["tokens"].as_f64().unwrap();
    let (loss, wanted) = (outcome.outputs[0].floats()[0] / tokens, batch["loss_f64"].as_f64().unwrap());
    assert!((loss - wanted).abs() < 1e-6 * wanted, "{case}: loss {loss}, transformers has {wanted}");
    let goldens = golden.names().into_iter().filter(|name| name.starts_with("grad.")).count();
    assert_eq!(goldens, names.len(), "{case}: the tensors that are trained");
    // How far transformers' own f32 gradients lie from its f64 ones.
    let tolerance = 2.0 * batch["grad_error_f32"].as_f64().unwrap();
    for (name, found) in names.iter().zip(&outcome.outputs[1..]) {
        let view = golden.tensor(&format!("grad.{name}")).unwrap();
        let wanted = floats(view.data(), view.shape());
        assert_eq!(wanted.ty(), found.ty(), "{case}: {name}");
        let norm = wanted.floats().iter().map(|g| g * g).sum::<f64>().sqrt();
        for (i, (&want, &have)) in wanted.floats().iter().zip(found.floats()).enumerate() {
            let near = (have / tokens - want).abs() <= tolerance * norm;
            assert!(near, "{case}: gradient of {name}, element {i}: {}, expected {want}", have / tokens);
        }
    }
}

#[test]
fn gpt2_has_the_gradients_of_transformers() {
    ["gpt2", "gpt2-options"].into_iter().for_each(check);
}

#[test]
fn llama_has_the_gradients_of_transformers() {
    ["llama1", "llama2", "llama3", "llama-bias-head-dim"].into_iter().for_each(check);
}

#[test]
fn mistral_has_the_gradients_of_transformers() {
    ["mistral", "mistral-no-window"].into_iter().for_each(check);
}

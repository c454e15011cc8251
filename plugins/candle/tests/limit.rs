//! A process that may have little memory: what does not fit is an error, not the end of the process.
#![cfg(all(target_os = "linux", not(any(feature = "cuda", feature = "metal"))))]

use std::process::Command;

use finetune_candle::Candle;
use finetune_plugin_api::conformance::{Random, run_bytes, run_tensors};
use finetune_plugin_api::export::{Device, ErrorKind, JsonObject, Options, Plugin};
use finetune_plugin_api::program::{DType, Program, TensorType, text};

/// Says to this test's own program that it runs within the limit.
const WITHIN: &str = "FINETUNE_TEST_WITHIN_A_LIMIT";
/// Kibibytes of addresses.
const LIMIT: usize = 1_000_000;

fn program(op: &str, ty: &str, size: usize) -> Program {
    text::parse(&format!(
        "finetune.program 1\n%0 = input \"x\" : {ty}[]\n%1 = broadcast(%0) {{shape = [{size}]}} : {ty}[{size}]\n\
         %2 = {op}(%1) : {ty}[{size}]\n%3 = reduce_max(%2) {{axes = [0]}} : {ty}[1]\noutput \"y\" = %3\nend\n"
    ))
    .unwrap()
}

fn within() {
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    // A result that does not fit; one that fits, but not with what its op computes with.
    for (op, dtype, size) in [("neg", DType::F32, 750_000_000), ("exp", DType::Bf16, 150_000_000)] {
        let x = Random::new(3).floats(dtype, &[], 0.5, 1.0);
        let large = program(op, &dtype.to_string(), size);
        let error = run_bytes(&mut device, &large, std::slice::from_ref(&x)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.state_untouched() && error.to_string().contains(op), "{error}");
        run_tensors(&mut device, &program(op, &dtype.to_string(), 8), &[x]).unwrap();
    }
}

/// Buffers get their memory when it is first needed: by then others may have it.
fn buffers_within() {
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    let ty = TensorType::new(DType::F32, &[75_000_000]);
    let buffers: Vec<_> = (0..4).map(|_| device.allocate(&ty).unwrap()).collect();
    let read = buffers.iter().map(|buffer| device.download(buffer, 0, &mut [0; 4]));
    let failed: Vec<_> = read.filter_map(Result::err).map(|error| error.kind()).collect();
    assert!(!failed.is_empty() && failed.iter().all(|kind| *kind == ErrorKind::OutOfMemory), "{failed:?}");
}

/// Candle allocates main memory in a way that ends the process where there is none.
#[test]
fn an_op_without_memory_is_an_error_and_the_device_stays_usable() {
    if std::env::var_os(WITHIN).is_some() {
        within();
        return buffers_within();
    }
    let mut child = Command::new("sh");
    child.args(["-c", &format!("ulimit -v {LIMIT} && exec \"$0\" --nocapture")]);
    child.arg(std::env::current_exe().unwrap()).env(WITHIN, "1");
    let output = child.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

//! What the device promises besides right results of single ops.
#![cfg(feature = "mlx")]

mod common;

use finetune_mlx::{Mlx, MlxDevice};
use finetune_plugin_api::export::{Bound, Device, ErrorKind, JsonObject, Options, Plugin};
use finetune_plugin_api::program::{DType, Program, TensorType, text};
use finetune_plugin_api::reference::Tensor;

fn compiling() -> MlxDevice {
    let mut options = JsonObject::new();
    options.insert("compile".into(), true.into());
    Mlx::open(0, &Options::from(options)).unwrap()
}

fn parse(body: &str) -> Program {
    text::parse(&format!("finetune.program 1\n{body}end\n")).unwrap()
}

/// MLX's compiler merges equal scalars; those that are results must stay.
#[test]
fn constants_are_results_of_compiled_programs() {
    let program = parse(
        "%0 = state \"a\" : f32[]\n%1 = state \"b\" : f32[]\n%2 = input \"x\" : f32[3]\n\
         %3 = constant() {dtype = f32, value = 0.0} : f32[]\n%4 = constant() {dtype = f32, value = 0.0} : f32[]\n\
         %5 = broadcast(%4) {shape = [3]} : f32[3]\n%6 = add(%2, %5) : f32[3]\nupdate %0 = %3\nupdate %1 = %4\n\
         output \"y\" = %6\noutput \"z\" = %3\n",
    );
    let scalar = TensorType::new(DType::F32, &[]);
    let args = [
        Tensor::from_bytes(&scalar, &1f32.to_le_bytes()).unwrap(),
        Tensor::from_bytes(&scalar, &2f32.to_le_bytes()).unwrap(),
        Tensor::from_bytes(&TensorType::new(DType::F32, &[3]), &[0; 12]).unwrap(),
    ];
    let results = common::run_bytes(&mut compiling(), &program, &args).unwrap();
    assert!(results.iter().flatten().all(|&byte| byte == 0), "{results:?}");
}

/// The new state takes the old one's memory: over many runs there is one of each, not two.
#[test]
fn state_is_updated_in_place() {
    let elements = 1 << 20;
    let program = parse(&format!(
        "%0 = state \"sum\" : f32[{elements}]\n%1 = input \"x\" : f32[]\n\
         %2 = broadcast(%1) {{shape = [{elements}]}} : f32[{elements}]\n%3 = add(%0, %2) : f32[{elements}]\nupdate %0 = %3\n"
    ));
    let mut device = common::open();
    let mut compiled = device.compile(program.clone()).unwrap();
    let mut sum = device.allocate(program.ty(program.args()[0].value)).unwrap();
    device.upload(&mut sum, 0, &vec![0; 4 * elements]).unwrap();
    let mut one = device.allocate(program.ty(program.args()[1].value)).unwrap();
    device.upload(&mut one, 0, &1f32.to_le_bytes()).unwrap();
    device.reset_peak().unwrap();
    let before = device.memory().unwrap().used;
    for _ in 0..5 {
        device.run(&mut compiled, &mut [Bound::Mut(&mut sum), Bound::Shared(&one)], &mut []).unwrap();
        device.synchronize().unwrap();
    }
    let peak = device.memory().unwrap().peak;
    assert!(peak < before + 2 * elements as u64, "{before} bytes before, {peak} at most");
    let mut last = [0; 4];
    device.download(&sum, 4 * (elements - 1), &mut last).unwrap();
    assert_eq!(f32::from_le_bytes(last), 5.0);
}

/// Weights come in ranges, which need not begin at elements.
#[test]
fn uploads_in_parts_make_a_whole() {
    let mut device = common::open();
    let ty = TensorType::new(DType::Bf16, &[5]);
    let bytes: Vec<u8> = (1..=10).collect();
    let mut buffer = device.allocate(&ty).unwrap();
    for part in [0..3, 3..4, 4..10] {
        device.upload(&mut buffer, part.start, &bytes[part]).unwrap();
    }
    device.upload(&mut buffer, 1, &[77]).unwrap();
    let mut back = [0; 9];
    device.download(&buffer, 1, &mut back).unwrap();
    assert_eq!(back, [77, 3, 4, 5, 6, 7, 8, 9, 10]);
}

/// MLX would write to memory that it was not given: what no machine has is an error, after which the device computes as
/// ever.
#[test]
fn what_there_is_no_memory_for_is_an_error() {
    let mut device = compiling();
    let size = 2_000_000;
    let large = format!(
        "%0 = input \"x\" : f32[]\n%1 = broadcast(%0) {{shape = [{size}, {size}]}} : f32[{size},{size}]\n\
         %2 = exp(%1) : f32[{size},{size}]\n%3 = reduce_sum(%2) {{axes = [0, 1]}} : f32[1,1]\noutput \"y\" = %3\n"
    );
    let x = Tensor::from_bytes(&TensorType::new(DType::F32, &[]), &1f32.to_le_bytes()).unwrap();
    let error = common::run_bytes(&mut device, &parse(&large), std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    let error = device.allocate(&TensorType::new(DType::F32, &[size, size])).err().expect("no memory");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    let small = parse("%0 = input \"x\" : f32[]\n%1 = neg(%0) : f32[]\noutput \"y\" = %1\n");
    assert_eq!(common::run_bytes(&mut device, &small, &[x]).unwrap(), [(-1f32).to_le_bytes()]);
}

//! What the device promises besides right results: the same bits every time, the memory that was planned,
//! errors instead of crashes.

mod common;

use finetune_cpu::{Cpu, CpuDevice};
use finetune_plugin_api::conformance::{self, Random};
use finetune_plugin_api::export::{Bound, Device, ErrorKind, HostBytes, Options, Plugin};
use finetune_plugin_api::plan::{self, PlanOptions};
use finetune_plugin_api::program::{Builder, DType, Program, TensorType, table, text};
use finetune_plugin_api::reference::Tensor;

fn plan_options(device: &CpuDevice) -> PlanOptions {
    serde_json::from_value(device.properties()["plan"].clone()).unwrap()
}

/// Random tensors for a program's arguments; indices stay below `limit`.
fn arguments(program: &Program, limit: usize) -> Vec<Tensor> {
    let mut random = Random::new(7);
    let types = program.args().iter().map(|arg| program.ty(arg.value).clone());
    types
        .map(|ty| match ty.dtype {
            DType::U32 => random.u32s(&ty.shape, limit),
            dtype => random.floats(dtype, &ty.shape, -0.5, 0.5),
        })
        .collect()
}

/// A small language model's step: embedding, attention, gated layer, loss, gradients, update.
fn step_program(dtype: DType) -> Program {
    let (batch, length, heads, width, classes) = (2, 96, 4, 64, 700);
    let channels = width / heads;
    let [inner, rows] = [3 * width, batch * length];
    let weight = |b: &mut Builder, name: &str, shape: &[usize]| b.param(name, TensorType::new(dtype, shape));
    let mut b = Builder::new();
    let ids = b.input("ids", TensorType::new(DType::U32, &[rows]));
    let counts = TensorType::new(DType::U32, &[batch]);
    let (start, valid) = (b.input("start", counts.clone()), b.input("valid", counts));
    let weights = b.input("weights", TensorType::new(DType::F32, &[rows]));
    let table = weight(&mut b, "table", &[classes, width]);
    let gains = weight(&mut b, "gains", &[width]);
    let [up, gate] = ["up", "gate"].map(|name| weight(&mut b, name, &[inner, width]));
    let down = b.state("down", TensorType::new(DType::F32, &[width, inner]));
    let sum = b.state("sum", TensorType::new(DType::F32, &[width, inner]));
    let op = table_op;
    let x = b.apply(op("gather"), &[table, ids], attrs(&[]));
    let n = b.apply(op("rms_norm"), &[x, gains], attrs(&[("eps", 1e-5)]));
    let q = b.reshape(n, &[batch, length, heads, channels]);
    let seen = [q, q, q, start, valid];
    let a = b.apply(op("attention"), &seen, attrs(&[("scale", 0.25)]));
    let a = b.reshape(a, &[rows, width]);
    let x = b.add(x, a);
    let (u, g) = (b.matmul(x, up, false, true), b.matmul(x, gate, false, true));
    let kind = attrs(&[]).word("kind", "silu");
    let h = b.apply(op("gated"), &[g, u], kind);
    let h32 = b.cast(h, DType::F32);
    let y = b.matmul(h32, down, false, true);
    let y = b.cast(y, dtype);
    let losses = b.push(op("linear_cross_entropy"), &[y, table, ids, weights], attrs(&[]));
    let dy = b.cast(losses[1], DType::F32);
    let ddown = b.matmul(dy, h32, true, false);
    let added = b.add(sum, ddown);
    b.update(sum, added);
    let step = b.scale(added, -0.1);
    let moved = b.add(down, step);
    b.update(down, moved);
    b.output("loss", losses[0]);
    b.finish().unwrap()
}

fn table_op(name: &str) -> finetune_plugin_api::program::Op {
    table::Op::from_name(name).unwrap()
}

fn attrs(floats: &[(&'static str, f64)]) -> finetune_plugin_api::program::Attrs {
    let none = finetune_plugin_api::program::Attrs::none();
    floats.iter().fold(none, |attrs, (name, value)| attrs.float(name, *value))
}

/// Resuming a run and repeating a batch on another back end rest on this.
#[test]
fn the_same_inputs_give_the_same_bits() {
    for dtype in [DType::F32, DType::Bf16] {
        let program = step_program(dtype);
        let args = arguments(&program, 90);
        let first = common::run_bytes(&mut common::open(3), &program, &args).unwrap();
        let mut device = common::open(3);
        for _ in 0..5 {
            assert!(common::run_bytes(&mut device, &program, &args).unwrap() == first, "{dtype}");
        }
    }
    let mut device = common::open(3);
    for case in table::TABLE.iter().flat_map(|def| conformance::op_cases(def.op)) {
        let args: Vec<Tensor> = case.args.iter().map(|(_, tensor)| tensor.clone()).collect();
        let first = common::run_bytes(&mut device, &case.program, &args).unwrap();
        assert!(common::run_bytes(&mut device, &case.program, &args).unwrap() == first, "{}", case.name);
    }
}

/// The host shows the planned peak before a run and picks the batch size by it.
#[test]
fn the_planned_peak_is_not_below_what_is_used_and_near_it() {
    for dtype in [DType::F32, DType::Bf16] {
        let program = step_program(dtype);
        let args = arguments(&program, 90);
        let mut device = common::open(2);
        let planned = plan::peak(&program, &plan_options(&device)).total() as u64;
        common::run_bytes(&mut device, &program, &args).unwrap();
        let used = device.memory().unwrap().peak;
        assert!(planned >= used && planned <= used + used / 10, "planned {planned}, used {used}");
    }
}

/// One arena serves all programs and shrinks with the largest; buffers count while they live.
#[test]
fn memory_is_given_back() {
    let mut device = common::open(2);
    let program = step_program(DType::F32);
    let small =
        text::parse("finetune.program 1\n%0 = input \"x\" : f32[64]\noutput \"y\" = %0\nend\n").unwrap();
    let large = device.compile(program.clone()).unwrap();
    let with_one = device.memory().unwrap().used;
    let again = device.compile(program).unwrap();
    assert_eq!(device.memory().unwrap().used, with_one);
    assert!(with_one > 100_000);
    drop((large, again));
    let _small = device.compile(small).unwrap();
    assert!(device.memory().unwrap().used < 1000);
    let buffer = device.allocate(&TensorType::new(DType::F32, &[1000])).unwrap();
    assert!(device.memory().unwrap().used >= 4000);
    drop(buffer);
    assert!(device.memory().unwrap().used < 1000 && device.memory().unwrap().peak > 100_000);
    device.reset_peak().unwrap();
    assert!(device.memory().unwrap().peak < 1000);
}

#[test]
fn memory_that_does_not_exist_is_an_error_of_that_kind() {
    let error = common::open(1).allocate(&TensorType::new(DType::F32, &[1 << 29, 1 << 29])).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("f32[536870912,536870912]"), "{error}");
}

/// Mapped weights are neither copied nor written; odd addresses are copied.
#[test]
fn lent_memory_is_read_in_place_and_never_written() {
    let mut device = common::open(1);
    let ty = TensorType::new(DType::F32, &[3]);
    let bytes: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut lent = device.adopt(&ty, HostBytes::from_vec(bytes.clone())).unwrap();
    let mut read = vec![0; 12];
    device.download(&lent, 0, &mut read).unwrap();
    assert_eq!(read, bytes);
    let program =
        "finetune.program 1\n%0 = state \"x\" : f32[3]\n%1 = neg(%0) : f32[3]\nupdate %0 = %1\nend\n";
    let mut compiled = device.compile(text::parse(program).unwrap()).unwrap();
    let error = device.run(&mut compiled, &mut [Bound::Mut(&mut lent)], &mut []).unwrap_err();
    assert!(error.state_untouched() && error.message().contains("read only"), "{error}");
    let mut copy = device.allocate(&ty).unwrap();
    let error = device.upload(&mut copy, 8, &bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn the_probe_names_the_processor_and_wrong_options_are_errors() {
    let devices = Cpu::probe().unwrap();
    assert_eq!((devices.len(), devices[0].kind.as_str(), devices[0].unified), (1, "cpu", true));
    assert!(!devices[0].name.is_empty() && devices[0].memory_total >= devices[0].memory_available);
    assert!(Cpu::open(1, &Options::default()).is_err());
    let mut options = finetune_plugin_api::export::JsonObject::new();
    options.insert("threads".into(), 0.into());
    assert!(Cpu::open(0, &Options::from(options)).is_err());
}

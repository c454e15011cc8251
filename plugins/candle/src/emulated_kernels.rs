//! The GPUs' part of the plugin, on a machine without one: the very source of the kernels, compiled as C++, under the
//! very code that launches them, against the reference interpreter.

use finetune_plugin_api::conformance::run_tensors;
use finetune_plugin_api::conformance::{Case, Expected, Random, Runner, check_case, check_device, op_cases};
use finetune_plugin_api::export::{Device, DeviceDescription, Error, Options, Plugin};
use finetune_plugin_api::program::{DType, NativeOps, Op, Program, lower, text};
use finetune_plugin_api::reference::{Rounding, Tensor, Values, run};

use crate::kernel::emulated;
use crate::{Candle, CandleDevice};

/// The plugin with its GPU emulated, a block's threads running in that order.
struct Emulated<const ORDER: u32>;

impl<const ORDER: u32> Plugin for Emulated<ORDER> {
    type Device = CandleDevice;

    fn probe() -> Result<Vec<DeviceDescription>, Error> {
        Candle::probe()
    }

    fn open(index: u32, options: &Options) -> Result<CandleDevice, Error> {
        emulated::switch_on(ORDER);
        Candle::open(index, options)
    }
}

struct OnDevice(CandleDevice);

impl Runner for OnDevice {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let native = NativeOps::of(&self.0.ops());
        let program = lower(program, &|node| native.has(node)).map_err(|error| error.to_string())?;
        run_tensors(&mut self.0, &program, args)
    }
}

/// Each kernel with every element type, size and edge of the ops that use it. It may touch nothing but its operands, its
/// threads must meet at every barrier, and it must not matter in which order they run between barriers. One test,
/// because it ends with the kernels that nothing has run.
#[test]
fn emulated_kernels_pass_every_case() {
    let forwards = check_device::<Emulated<0>>(0).unwrap();
    assert!(forwards.is_passed(), "threads in order: {forwards}");
    let backwards = check_device::<Emulated<1>>(0).unwrap();
    assert!(backwards.is_passed(), "threads backwards: {backwards}");
    types_that_no_case_has();
    short_types_between_products();
    small_blocks();
    let left = emulated::kernels_left();
    assert!(left.is_empty(), "nothing runs the kernels {left:?}");
}

/// What a result may be off by: so many units in the last place of its type at its largest element.
fn within(want: &Tensor, units: f64) -> Vec<f64> {
    let unit = match want.ty().dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    };
    let Values::Float(values) = want.values() else { return vec![0.0; want.values().len()] };
    let largest = values.iter().filter(|value| value.is_finite()).fold(0.0, |most: f64, x| most.max(x.abs()));
    vec![units * unit * largest; values.len()]
}

fn check(case: &Case) {
    let device = Emulated::<1>::open(0, &Options::default()).unwrap();
    if let Err(message) = check_case(case, &mut OnDevice(device)) {
        panic!("{}: {message}", case.name);
    }
}

/// Float operands of one op, the last of them f32, and its result of the first one's type.
fn case(op: &str, attrs: &str, shapes: &[(DType, &[usize])], results: &[(DType, &[usize])]) -> Case {
    let rng = &mut Random::new(7);
    let args: Vec<Tensor> =
        shapes.iter().map(|(dtype, shape)| rng.floats(*dtype, shape, -2.0, 2.0)).collect();
    let shown = |(dtype, shape): &(DType, &[usize])| {
        let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("{dtype}[{}]", sizes.join(","))
    };
    let mut source = "finetune.program 1\n".to_owned();
    for (number, of) in shapes.iter().enumerate() {
        source += &format!("%{number} = input \"x{number}\" : {}\n", shown(of));
    }
    let value = |number: usize| format!("%{number}");
    let operands: Vec<String> = (0..shapes.len()).map(value).collect();
    let values: Vec<String> = (shapes.len()..shapes.len() + results.len()).map(value).collect();
    let types: Vec<String> = results.iter().map(shown).collect();
    source += &format!(
        "{} = {op}({}){} : {}\n",
        values.join(", "),
        operands.join(", "),
        if attrs.is_empty() { String::new() } else { format!(" {{{attrs}}}") },
        types.join(", ")
    );
    for (number, value) in values.iter().enumerate() {
        source += &format!("output \"y{number}\" = {value}\n");
    }
    let program = text::parse(&(source + "end\n")).unwrap();
    let outputs = run(&program, &args, Rounding::None).unwrap().outputs;
    let expected = |(number, want): (usize, Tensor)| Expected {
        name: format!("y{number}"),
        allowed: within(&want, 8.0),
        want,
    };
    let expected = outputs.into_iter().enumerate().map(expected).collect();
    let args = args.into_iter().enumerate().map(|(number, tensor)| (format!("x{number}"), tensor)).collect();
    Case { name: format!("{op} {shapes:?}"), program, args, expected, runs: 1 }
}

/// f16 beside f32 weights, and columns that are summed in more than one part.
fn types_that_no_case_has() {
    for width in [1, 31, 257] {
        let (x, w): ((_, &[usize]), (_, &[usize])) = ((DType::F16, &[5, width]), (DType::F32, &[width]));
        check(&case("rms_norm", "eps = 1e-5", &[x, w], &[x]));
        check(&case("layer_norm", "eps = 1e-5", &[x, w, w], &[x]));
        check(&case("rms_norm_grad", "eps = 1e-5", &[x, w, x], &[x, w]));
        check(&case("layer_norm_grad", "eps = 1e-5", &[x, w, x], &[x, w, w]));
    }
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let (x, y): ((_, &[usize]), (_, &[usize])) = ((dtype, &[2, 700, 33]), (dtype, &[2, 1, 33]));
        check(&case("reduce_sum", "axes = [1]", &[x], &[y]));
        check(&case("reduce_max", "axes = [1]", &[x], &[y]));
    }
}

/// As on CUDA. What is rounded between the products is not what the language says, so the bounds are wider: some
/// units in the last place of the largest element.
fn short_types_between_products() {
    emulated::set_narrow(true);
    for mut case in [Op::Attention, Op::AttentionGrad, Op::LinearCrossEntropy].into_iter().flat_map(op_cases)
    {
        for expected in &mut case.expected {
            let wider = within(&expected.want, 8.0);
            expected.allowed.iter_mut().zip(wider).for_each(|(allowed, wider)| *allowed = allowed.max(wider));
        }
        check(&case);
    }
    emulated::set_narrow(false);
}

/// As on a Mac whose GPU runs few threads of a kernel that needs many registers: rows so wide that their ops ask for the
/// most threads there are, and every other case.
fn small_blocks() {
    for most in [32, 512] {
        emulated::set_most_threads(most);
        let row: (_, &[usize]) = (DType::F32, &[3, 4099]);
        check(&case("softmax", "", &[row], &[row]));
        check(&case("softmax_grad", "", &[row, row], &[row]));
    }
    emulated::set_most_threads(32);
    let report = check_device::<Emulated<1>>(0).unwrap();
    emulated::set_most_threads(1024);
    assert!(report.is_passed(), "blocks of 32 threads: {report}");
}

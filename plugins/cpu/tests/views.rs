//! The conformance cases again, with operands that are views, that are stored in half precision, or whose
//! storage the op may take for its result.

mod common;

use finetune_cpu::CpuDevice;
use finetune_plugin_api::conformance::{self, Case, Runner};
use finetune_plugin_api::program::{Attrs, Builder, DType, Op, Program, TensorType, ValueId, table};
use finetune_plugin_api::reference::{Tensor, Values};

struct Native(CpuDevice);

impl Runner for Native {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        common::run(&mut self.0, program, args)
    }
}

/// Rebuilds a case of one op with other arguments and ways from them to the operands and from the results to
/// the outputs.
fn rebuilt(
    case: &Case,
    argument: impl Fn(&Tensor) -> Tensor,
    operand: impl Fn(&mut Builder, ValueId, &TensorType) -> ValueId,
    result: impl Fn(&mut Builder, ValueId) -> ValueId,
) -> Case {
    let node = &case.program.nodes()[0];
    let mut b = Builder::new();
    let mut args = Vec::new();
    let operands: Vec<ValueId> = case
        .args
        .iter()
        .map(|(name, tensor)| {
            let given = argument(tensor);
            let value = b.input(name, given.ty().clone());
            args.push((name.clone(), given));
            operand(&mut b, value, tensor.ty())
        })
        .collect();
    let results = b.push(node.op, &operands, node.attrs.clone());
    for (output, value) in case.program.outputs().iter().zip(results) {
        let value = result(&mut b, value);
        b.output(&output.name, value);
    }
    Case { program: b.finish().unwrap(), args, ..case.clone() }
}

fn op_cases() -> impl Iterator<Item = Case> {
    table::TABLE.iter().flat_map(|def| conformance::op_cases(def.op))
}

/// Element `to` of the result is element `from` of `values`.
fn picked(tensor: &Tensor, shape: &[usize], from: impl Fn(usize) -> usize) -> Tensor {
    let count: usize = shape.iter().product();
    let values = match tensor.values() {
        Values::Float(values) => Values::Float((0..count).map(|i| values[from(i)]).collect()),
        Values::U32(values) => Values::U32((0..count).map(|i| values[from(i)]).collect()),
        Values::Bool(values) => Values::Bool((0..count).map(|i| values[from(i)]).collect()),
    };
    Tensor::new(tensor.ty().with_shape(shape), values).unwrap()
}

/// A tensor that holds the given one turned around, with one index more at the front of each dimension.
fn turned_and_padded(tensor: &Tensor) -> Tensor {
    let shape = &tensor.ty().shape;
    let outer: Vec<usize> = shape.iter().rev().map(|dim| dim + 1).collect();
    picked(tensor, &outer, |mut i| {
        let (mut at, mut stride) = (0, 1);
        let mut index = vec![0; outer.len()];
        for d in (0..outer.len()).rev() {
            (index[d], i) = (i % outer[d], i / outer[d]);
        }
        for (d, dim) in shape.iter().enumerate().rev() {
            at += index[shape.len() - 1 - d].saturating_sub(1) * stride;
            stride *= dim;
        }
        at
    })
}

/// Every kernel takes operands of any strides and start.
#[test]
fn operands_may_be_strided_views() {
    let mut device = Native(common::open(2));
    let mut failures = Vec::new();
    for case in op_cases().filter(|case| case.args.iter().all(|(_, tensor)| tensor.ty().rank() < 8)) {
        let back = |b: &mut Builder, value: ValueId, ty: &TensorType| {
            let order: Vec<usize> = (0..ty.rank()).rev().collect();
            let turned = b.permute(value, &order);
            b.slice(turned, &vec![1; ty.rank()], &ty.shape)
        };
        let strided = rebuilt(&case, turned_and_padded, back, |_, value| value);
        if let Err(message) = conformance::check_case(&strided, &mut device) {
            failures.push(format!("{}: {message}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Copies a value into the arena, where it dies with its reader.
fn copied(b: &mut Builder, value: ValueId) -> ValueId {
    match b.ty(value).rank() {
        0 => value,
        _ => b.apply(Op::Concat, &[value], Attrs::none().int("axis", 0)),
    }
}

/// Kernels that may write over a dying operand read it first.
#[test]
fn results_may_lie_where_operands_lie() {
    let mut device = Native(common::open(2));
    let mut failures = Vec::new();
    for case in op_cases() {
        let overlapping = rebuilt(&case, Tensor::clone, |b, value, _| copied(b, value), copied);
        if let Err(message) = conformance::check_case(&overlapping, &mut device) {
            failures.push(format!("{}: {message}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A widening cast is never made: kernels read bf16 and f16 as f32, and that changes no value.
#[test]
fn f32_operands_may_be_stored_in_half_precision() {
    let mut device = common::open(2);
    let mut failures = Vec::new();
    for case in op_cases() {
        let wide = |tensor: &Tensor| tensor.ty().dtype == DType::F32;
        // A cast of a cast is another program; products of quantized numbers round to their scales' type.
        if !case.args.iter().any(|(_, tensor)| wide(tensor)) || case.program.nodes()[0].op == Op::Cast {
            continue;
        }
        for dtype in [DType::Bf16, DType::F16] {
            let narrow = |tensor: &Tensor| match wide(tensor) {
                true => Tensor::float(dtype, &tensor.ty().shape, tensor.floats().to_vec()).unwrap().rounded(),
                false => tensor.clone(),
            };
            let widened = |tensor: &Tensor| match wide(tensor) {
                true => {
                    Tensor::float(DType::F32, &tensor.ty().shape, narrow(tensor).floats().to_vec()).unwrap()
                }
                false => tensor.clone(),
            };
            let as_f32 = |b: &mut Builder, value: ValueId, ty: &TensorType| b.cast(value, ty.dtype);
            let half = rebuilt(&case, narrow, as_f32, |_, value| value);
            let full = rebuilt(&case, widened, |_, value, _| value, |_, value| value);
            let mut results = |case: &Case| {
                let args: Vec<Tensor> = case.args.iter().map(|(_, tensor)| tensor.clone()).collect();
                common::run(&mut device, &case.program, &args).unwrap()
            };
            for (got, want) in results(&half).iter().zip(results(&full)) {
                if !near(got, &want) {
                    failures.push(format!("{} as {dtype}: {got:?} instead of {want:?}", case.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Equal but for the order of additions in a product that is cut otherwise.
fn near(got: &Tensor, want: &Tensor) -> bool {
    let (Values::Float(got), Values::Float(want)) = (got.values(), want.values()) else {
        return got.values() == want.values();
    };
    let largest = want.iter().filter(|x| x.is_finite()).fold(0.0f64, |most, x| most.max(x.abs()));
    got.iter().zip(want).all(|(got, want)| {
        got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= 2e-6 * largest
    })
}

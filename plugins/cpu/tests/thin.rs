//! Products of one row and of a few, whose right operand is wider and deeper than what a task takes at a time, in
//! every type and way that it may lie. All numbers are small whole ones, which every order of additions sums exactly.

mod common;

use finetune_plugin_api::program::{Builder, DType, TensorType};
use finetune_plugin_api::reference::{Rounding, Tensor, run};

fn whole(dtype: DType, shape: &[usize], turn: usize) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|i| ((i * 7 + i / 11 * turn) % 9) as f64 - 4.0).collect();
    Tensor::float(dtype, shape, values).unwrap()
}

#[test]
fn products_of_few_rows_are_those_of_the_reference() {
    let mut device = common::open(2);
    let sizes = [(1, 2500, 600), (1, 70, 1300), (3, 2049, 513), (4, 33, 1), (4, 1, 700), (5, 2100, 40)];
    for (rows, depth, columns) in sizes {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for transposed in [false, true] {
                let shape = if transposed { [columns, depth] } else { [depth, columns] };
                let args = [whole(DType::F32, &[rows, depth], 5), whole(dtype, &shape, 3)];
                let mut b = Builder::new();
                let x = b.input("x", TensorType::new(DType::F32, &[rows, depth]));
                let weight = b.param("weight", TensorType::new(dtype, &shape));
                let weight = b.cast(weight, DType::F32);
                let y = b.matmul(x, weight, false, transposed);
                b.output("y", y);
                let program = b.finish().unwrap();
                let expected = run(&program, &args, Rounding::None).unwrap();
                let got = common::run(&mut device, &program, &args).unwrap();
                let what = format!("{rows} {depth} {columns} {dtype} {transposed}");
                assert!(expected.outputs[0].floats().iter().any(|value| *value != 0.0), "{what}");
                assert_eq!(got[0].floats(), expected.outputs[0].floats(), "{what}");
            }
        }
    }
}

//! Arguments for core ops.

use super::{FLOATS, Variant, given, numbers, truths};
use crate::conformance::Random;
use crate::program::{Attrs, DType, Op};
use crate::reference::Tensor;

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;
/// A scalar, ones, odd numbers, more than a register, more than a block.
const SHAPES: [&[usize]; 5] = [&[], &[1, 1], &[3, 5], &[129], &[2, 1, 257]];
const MOVED: [DType; 5] = DType::ALL;

fn none() -> Attrs {
    Attrs::none()
}

pub(super) fn constant() -> Vec<Variant> {
    let values = [
        (DType::F32, 1.1),
        (DType::F32, -INF),
        (DType::F32, NAN),
        (DType::Bf16, 0.1),
        (DType::F16, -2.7),
        (DType::U32, 4_294_967_295.0),
        (DType::Bool, 1.0),
        (DType::Bool, 0.0),
    ];
    let attrs = values.map(|(dtype, value)| none().dtype("dtype", dtype).float("value", value));
    attrs.into_iter().map(|attrs| Variant::new("", vec![], attrs)).collect()
}

pub(super) fn iota() -> Vec<Variant> {
    let sizes: [(DType, &[usize], usize); 5] = [
        (DType::U32, &[3, 5, 2], 1),
        (DType::U32, &[257], 0),
        (DType::F32, &[2, 129], 1),
        (DType::F32, &[129, 2], 0),
        (DType::F32, &[1], 0),
    ];
    let attrs =
        sizes.map(|(dtype, shape, axis)| none().dtype("dtype", dtype).ints("shape", shape).int("axis", axis));
    attrs.into_iter().map(|attrs| Variant::new("", vec![], attrs)).collect()
}

pub(super) fn random_bits(rng: &mut Random) -> Vec<Variant> {
    let sizes: [(&[usize], usize, usize); 5] =
        [(&[3], 4, 0), (&[2, 5], 1, 3), (&[3], 7, 65535), (&[], 257, 1), (&[1], 1030, 2)];
    let variants = sizes.map(|(shape, channels, site)| {
        let operands = vec![rng.bits(&[2]), rng.bits(&[]), rng.bits(shape), rng.bits(shape)];
        Variant::new("", operands, none().int("channels", channels).int("site", site))
    });
    variants.into()
}

pub(super) fn cast(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for from in DType::ALL {
        for to in DType::ALL {
            let attrs = || none().dtype("dtype", to);
            let mut operands = match from {
                DType::U32 if to == DType::F16 => vec![rng.u32s(&[3, 43], 60_000)],
                DType::U32 => vec![rng.bits(&[3, 43]), rng.u32s(&[5], 2)],
                DType::Bool => vec![rng.bools(&[3, 43])],
                _ => vec![rng.floats(from, &[3, 43], -300.0, 300.0), rng.floats(from, &[257], -1.0, 1.0)],
            };
            if from.is_float() {
                operands.push(given(from, &[0.0, -0.0, 1.0, -7.9, 0.5, INF, -INF, NAN, 65504.0, 5e9]));
                // Halfway between neighbours of bf16 and of f16, with an even and an odd lower one.
                let ties = [1.0 + 2f64.powi(-8), 1.0 + 3.0 * 2f64.powi(-8), 1.0 + 2f64.powi(-11)];
                operands.push(given(from, &ties));
            }
            variants.extend(operands.into_iter().map(|x| Variant::new("", vec![x], attrs())));
        }
    }
    variants
}

pub(super) fn unary(op: Op, rng: &mut Random) -> Vec<Variant> {
    let (low, high) = match op {
        Op::Exp | Op::Tanh => (-4.0, 4.0),
        Op::Log => (0.1, 8.0),
        Op::Sqrt | Op::Rsqrt => (0.05, 9.0),
        Op::Sin | Op::Cos => (-20.0, 20.0),
        Op::Erf => (-3.0, 3.0),
        _ => (-5.0, 5.0),
    };
    let edges: &[f64] = match op {
        Op::Exp => &[-INF, -200.0, 0.0, INF, NAN],
        Op::Log => &[0.0, 1.0, INF, -1.0, NAN],
        Op::Sqrt => &[0.0, 1.0, INF, -1.0, NAN],
        Op::Rsqrt => &[0.0, 1.0, INF, NAN],
        Op::Sin | Op::Cos => &[0.0, NAN],
        Op::Tanh | Op::Erf => &[0.0, 20.0, -20.0, INF, -INF, NAN],
        _ => &[0.0, INF, -INF, NAN],
    };
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for shape in SHAPES {
            variants.push(Variant::new("", vec![rng.floats(dtype, shape, low, high)], none()));
        }
        variants.push(Variant::new("edges ", vec![given(dtype, edges)], none()));
    }
    variants
}

pub(super) fn arithmetic(op: Op, rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    let low = if op == Op::Div { 0.5 } else { -3.0 };
    for dtype in FLOATS {
        for shape in SHAPES {
            let operands = vec![rng.floats(dtype, shape, -3.0, 3.0), rng.floats(dtype, shape, low, 3.0)];
            variants.push(Variant::new("", operands, none()));
        }
        let (a, b) = ([1.0, NAN, INF, 1.0, NAN, 2.0], [NAN, 1.0, 1.0, -INF, NAN, 2.0]);
        variants.push(Variant::new("edges ", vec![given(dtype, &a), given(dtype, &b)], none()));
    }
    variants.push(Variant::new("", vec![rng.bits(&[3, 43]), rng.bits(&[3, 43])], none()));
    variants.push(Variant::new("small ", vec![rng.u32s(&[257], 100), rng.u32s(&[257], 4)], none()));
    variants
}

pub(super) fn bitwise(rng: &mut Random) -> Vec<Variant> {
    vec![
        Variant::new("", vec![rng.bits(&[3, 43]), rng.bits(&[3, 43])], none()),
        Variant::new("", vec![rng.bools(&[3, 43]), rng.bools(&[3, 43])], none()),
    ]
}

pub(super) fn shift(rng: &mut Random) -> Vec<Variant> {
    let edges = [0, 1, 31, 32, 33, u32::MAX];
    vec![
        Variant::new("", vec![rng.bits(&[3, 43]), rng.u32s(&[3, 43], 40)], none()),
        Variant::new("edges ", vec![rng.bits(&[6]), numbers(&[6], &edges)], none()),
    ]
}

pub(super) fn compare(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for kind in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let attrs = || none().word("kind", kind);
        for dtype in FLOATS {
            let a = [1.0, 1.0, 2.0, -1.0, NAN, 1.0, NAN, INF, INF, -INF, 0.0];
            let b = [1.0, 2.0, 1.0, 1.0, 1.0, NAN, NAN, INF, 1.0, INF, -0.0];
            variants.push(Variant::new("edges ", vec![given(dtype, &a), given(dtype, &b)], attrs()));
            let operands = [1, 2].map(|_| rng.floats(dtype, &[3, 43], -3.0, 3.0));
            variants.push(Variant::new("", operands.into(), attrs()));
        }
        variants.push(Variant::new("", vec![rng.u32s(&[129], 4), rng.u32s(&[129], 4)], attrs()));
        // Beyond the range of a signed integer and of a float's whole numbers.
        let (a, b) = ([u32::MAX, 1, u32::MAX, 1 << 31], [1, u32::MAX, u32::MAX - 1, (1 << 31) - 1]);
        variants.push(Variant::new("large ", vec![numbers(&[4], &a), numbers(&[4], &b)], attrs()));
        variants.push(Variant::new("", vec![rng.bools(&[33]), rng.bools(&[33])], attrs()));
    }
    variants
}

pub(super) fn select(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in MOVED {
        for shape in SHAPES {
            let operands = vec![rng.bools(shape), rng.any(dtype, shape), rng.any(dtype, shape)];
            variants.push(Variant::new("", operands, none()));
        }
    }
    let operands = [given(DType::F32, &[NAN, 1.0]), given(DType::F32, &[2.0, INF])];
    let cond = truths(&[false, true]);
    let [a, b] = operands;
    variants.push(Variant::new("what is not chosen does not matter ", vec![cond, a, b], none()));
    variants
}

pub(super) fn reduce(op: Op, rng: &mut Random) -> Vec<Variant> {
    let sizes: [(&[usize], &[usize]); 8] = [
        (&[5], &[0]),
        (&[3, 129], &[1]),
        (&[3, 129], &[0]),
        (&[2, 3, 4, 5], &[0, 2]),
        (&[2, 3, 4, 5], &[1, 2, 3]),
        (&[257, 1], &[0]),
        (&[1, 1], &[0, 1]),
        (&[2, 1031], &[1]),
    ];
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (shape, axes) in sizes {
            let attrs = none().ints("axes", axes);
            variants.push(Variant::new("", vec![rng.floats(dtype, shape, -2.0, 2.0)], attrs));
        }
        let attrs = || none().ints("axes", &[0]);
        if op == Op::ReduceMax {
            variants.push(Variant::new("NaN ", vec![given(dtype, &[1.0, NAN, 3.0])], attrs()));
            variants.push(Variant::new("negative ", vec![given(dtype, &[-INF, -5.0, -INF])], attrs()));
            variants.push(Variant::new("-inf ", vec![given(dtype, &[-INF, -INF])], attrs()));
        }
    }
    variants
}

fn for_moved(rng: &mut Random, cases: &[(&[usize], Attrs)]) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in MOVED {
        for (shape, attrs) in cases {
            variants.push(Variant::new("", vec![rng.any(dtype, shape)], attrs.clone()));
        }
    }
    variants
}

pub(super) fn reshape(rng: &mut Random) -> Vec<Variant> {
    let to = |shape: &[usize]| none().ints("shape", shape);
    let cases: [(&[usize], Attrs); 5] = [
        (&[6, 4], to(&[2, 3, 4])),
        (&[3, 1, 43], to(&[129])),
        (&[1], to(&[])),
        (&[], to(&[1, 1])),
        (&[2, 3, 4, 5], to(&[6, 20])),
    ];
    for_moved(rng, &cases)
}

pub(super) fn permute(rng: &mut Random) -> Vec<Variant> {
    let by = |perm: &[usize]| none().ints("perm", perm);
    let cases: [(&[usize], Attrs); 7] = [
        (&[3, 5], by(&[1, 0])),
        (&[129, 3], by(&[1, 0])),
        (&[2, 3, 4, 5], by(&[0, 2, 1, 3])),
        (&[2, 3, 4, 5], by(&[3, 1, 0, 2])),
        (&[2, 3, 1, 2, 2], by(&[4, 2, 0, 3, 1])),
        (&[7], by(&[0])),
        (&[], by(&[])),
    ];
    for_moved(rng, &cases)
}

pub(super) fn broadcast(rng: &mut Random) -> Vec<Variant> {
    let to = |shape: &[usize]| none().ints("shape", shape);
    let cases: [(&[usize], Attrs); 6] = [
        (&[], to(&[3, 129])),
        (&[5], to(&[3, 5])),
        (&[3, 1], to(&[3, 129])),
        (&[1, 5], to(&[2, 3, 5])),
        (&[2, 1, 3, 1], to(&[2, 4, 3, 5])),
        (&[1], to(&[257])),
    ];
    for_moved(rng, &cases)
}

pub(super) fn slice(rng: &mut Random) -> Vec<Variant> {
    let block = |start: &[usize], size: &[usize]| none().ints("start", start).ints("size", size);
    let cases: [(&[usize], Attrs); 5] = [
        (&[10], block(&[3], &[4])),
        (&[3, 129], block(&[1, 2], &[2, 125])),
        (&[2, 3, 4, 5], block(&[0, 1, 0, 2], &[2, 1, 4, 3])),
        (&[3, 5], block(&[2, 4], &[1, 1])),
        (&[3, 5], block(&[0, 0], &[3, 5])),
    ];
    for_moved(rng, &cases)
}

pub(super) fn pad(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in MOVED {
        let cases: [([&[usize]; 3], f64); 4] = [
            ([&[3], &[1], &[2]], 1.0),
            ([&[2, 3], &[0, 2], &[3, 0]], 0.0),
            ([&[2, 3, 2], &[1, 0, 1], &[0, 1, 2]], 1.0),
            ([&[1, 65], &[0, 63], &[1, 1]], 1.0),
        ];
        for ([shape, low, high], value) in cases {
            let attrs = none().ints("low", low).ints("high", high).float("value", value);
            variants.push(Variant::new("", vec![rng.any(dtype, shape)], attrs));
        }
    }
    variants
}

pub(super) fn concat(rng: &mut Random) -> Vec<Variant> {
    let cases: [(&[&[usize]], usize); 5] = [
        (&[&[3], &[1], &[5]], 0),
        (&[&[2, 3], &[2, 129]], 1),
        (&[&[2, 3], &[1, 3], &[4, 3]], 0),
        (&[&[2, 1, 3], &[2, 2, 3]], 1),
        (&[&[2, 3]], 1),
    ];
    let mut variants = Vec::new();
    for dtype in MOVED {
        for (shapes, axis) in cases {
            let operands = shapes.iter().map(|shape| rng.any(dtype, shape)).collect();
            variants.push(Variant::new("", operands, none().int("axis", axis)));
        }
    }
    variants
}

pub(super) fn matmul(rng: &mut Random) -> Vec<Variant> {
    let sizes = [(1, 1, 1), (3, 5, 2), (17, 129, 33), (1, 257, 9), (65, 3, 1)];
    let batches: [&[usize]; 3] = [&[], &[2], &[2, 3]];
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (i, (m, k, n)) in sizes.into_iter().enumerate() {
            for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
                let batch = batches[(i + usize::from(transpose_a)) % batches.len()];
                let [a, b] = [(m, k, transpose_a), (k, n, transpose_b)].map(|(rows, columns, transposed)| {
                    let pair = if transposed { [columns, rows] } else { [rows, columns] };
                    rng.floats(dtype, &[batch, &pair[..]].concat(), -1.0, 1.0)
                });
                let attrs = none().bool("transpose_a", transpose_a).bool("transpose_b", transpose_b);
                variants.push(Variant::new("", vec![a, b], attrs));
            }
        }
    }
    variants
}

/// Indices of 7 rows, some beyond and some equal.
fn row_indices(rng: &mut Random, shape: &[usize]) -> Tensor {
    rng.u32s(shape, 9)
}

pub(super) fn gather(rng: &mut Random) -> Vec<Variant> {
    let sizes: [(&[usize], &[usize]); 5] =
        [(&[7, 5], &[4]), (&[7, 129], &[2, 3]), (&[7], &[33]), (&[7, 2, 3], &[]), (&[1, 3], &[2])];
    let mut variants = Vec::new();
    for dtype in MOVED {
        for (table, shape) in sizes {
            let operands = vec![rng.any(dtype, table), row_indices(rng, shape)];
            variants.push(Variant::new("", operands, none()));
        }
    }
    let edges = vec![rng.any(DType::F32, &[7, 2]), numbers(&[3], &[u32::MAX, 6, 7])];
    variants.push(Variant::new("beyond ", edges, none()));
    variants
}

pub(super) fn scatter_add(rng: &mut Random) -> Vec<Variant> {
    // The last have rows that hundreds of updates name, and rows that none does.
    let sizes: [(&[usize], &[usize]); 8] = [
        (&[7, 5], &[4]),
        (&[7, 33], &[2, 9]),
        (&[7], &[129]),
        (&[7, 2, 3], &[]),
        (&[1, 3], &[5]),
        (&[5, 3], &[1100]),
        (&[40, 2], &[600]),
        (&[900, 2], &[2, 290]),
    ];
    let mut variants = Vec::new();
    for dtype in FLOATS {
        for (base, shape) in sizes {
            let rows = [shape, &base[1..]].concat();
            let indices = rng.u32s(shape, 2 + base[0].max(7));
            let operands = vec![rng.any(dtype, base), indices, rng.any(dtype, &rows)];
            variants.push(Variant::new("", operands, none()));
        }
    }
    variants
}

pub(super) fn dynamic_slice(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in MOVED {
        for (shape, axis, size) in [([10, 3], 0, 4), ([3, 129], 1, 65), ([5, 2], 0, 5), ([5, 2], 1, 1)] {
            for start in [0, 1, 3, 1000, u32::MAX] {
                let operands = vec![rng.any(dtype, &shape), numbers(&[], &[start])];
                variants.push(Variant::new(
                    format!("start {start} "),
                    operands,
                    none().int("axis", axis).int("size", size),
                ));
            }
        }
    }
    variants
}

pub(super) fn update_slice(rng: &mut Random) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in MOVED {
        for (shape, axis, size) in [([10, 3], 0, 4), ([3, 129], 1, 65), ([5, 2], 0, 5), ([5, 2], 1, 1)] {
            for start in [0, 1, 3, 1000, u32::MAX] {
                let mut update = shape;
                update[axis] = size;
                let operands = vec![rng.any(dtype, &shape), rng.any(dtype, &update), numbers(&[], &[start])];
                variants.push(Variant::new(format!("start {start} "), operands, none().int("axis", axis)));
            }
        }
    }
    variants
}

//! Times kernels at the shapes of a 135M parameter model, 1024 tokens at a time:
//! `cargo run -p finetune-cpu --example kernels [FILTER]`.

use std::time::Instant;

use finetune_cpu::{Buffer, Cpu, CpuDevice};
use finetune_plugin_api::export::{Bound, Device, Error, Options, Plugin};
use finetune_plugin_api::program::{Attrs, Builder, DType, Op, TensorType, ValueId};

/// A program of one op on arguments of these types; time per run and, for `flops` of work, the rate.
fn time(
    device: &mut CpuDevice,
    name: &str,
    flops: f64,
    build: impl Fn(&mut Builder) -> Vec<ValueId>,
) -> Result<(), Error> {
    let mut b = Builder::new();
    for (i, result) in build(&mut b).into_iter().enumerate() {
        b.output(&format!("{i}"), result);
    }
    let program = b.finish()?;
    let mut buffers: Vec<Buffer> = Vec::new();
    for arg in program.args() {
        let ty = program.ty(arg.value);
        let mut buffer = device.allocate(ty)?;
        let bytes: Vec<u8> = match ty.dtype {
            DType::U32 => (0..ty.elements()).flat_map(|i| (256 - i as u32 % 2).to_le_bytes()).collect(),
            DType::Bf16 => (0..ty.elements()).flat_map(|i| [i as u8, 0x3c + (i % 2) as u8 * 0x80]).collect(),
            _ => (0..ty.elements()).flat_map(|i| ((i % 1013) as f32 / 1013.0 - 0.5).to_le_bytes()).collect(),
        };
        device.upload(&mut buffer, 0, &bytes)?;
        buffers.push(buffer);
    }
    let outputs = program.outputs().iter().map(|output| program.ty(output.value).clone());
    let mut outputs: Vec<Buffer> =
        outputs.collect::<Vec<_>>().iter().map(|ty| device.allocate(ty)).collect::<Result<_, _>>()?;
    let mut compiled = device.compile(program)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let mut bound: Vec<_> = buffers.iter().map(Bound::Shared).collect();
        let mut outputs: Vec<&mut Buffer> = outputs.iter_mut().collect();
        let start = Instant::now();
        device.run(&mut compiled, &mut bound, &mut outputs)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:34} {:9.2} ms {:8.1} GFLOP/s", best * 1e3, flops / best / 1e9);
    Ok(())
}

fn ty(dtype: DType, shape: &[usize]) -> TensorType {
    TensorType::new(dtype, shape)
}

fn attention(b: &mut Builder, grad: bool) -> Vec<ValueId> {
    let (q, kv) = (ty(DType::F32, &[4, 256, 9, 64]), ty(DType::F32, &[4, 256, 3, 64]));
    let row = ty(DType::U32, &[4]);
    let mut operands = vec![b.input("q", q.clone()), b.input("k", kv.clone()), b.input("v", kv)];
    let start = b.full(0.0, &row);
    operands.extend([start, b.input("valid", row)]);
    let attrs = Attrs::none().float("scale", 0.125).bool("lse", true);
    if !grad {
        return b.push(Op::Attention, &operands, attrs);
    }
    let lse = ty(DType::F32, &[4, 9, 256]);
    operands.extend([b.input("dout", q.clone()), b.input("out", q), b.input("lse", lse)]);
    b.push(Op::AttentionGrad, &operands, attrs)
}

fn main() -> Result<(), Error> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let mut device = Cpu::open(0, &Options::default())?;
    let mut run =
        |name: &str, flops: f64, build: &dyn Fn(&mut Builder) -> Vec<ValueId>| match name.contains(&filter) {
            true => time(&mut device, name, flops, build),
            false => Ok(()),
        };
    for dtype in [DType::F32, DType::Bf16] {
        for (m, n, k, a, b) in [
            (1024, 576, 576, false, true),
            (1024, 1536, 576, false, true),
            (1024, 576, 1536, false, true),
            (1024, 1536, 576, false, false),
            (576, 1536, 1024, true, false),
            (1024, 8, 576, false, true),
            (1024, 576, 8, false, true),
            (8, 576, 1024, true, false),
            (1024, 49152, 576, false, true),
        ] {
            let name = format!("matmul {dtype} {m}x{n}x{k} {a} {b}");
            run(&name, 2.0 * (m * n * k) as f64, &|builder| {
                let left = builder.input("a", ty(dtype, &if a { [k, m] } else { [m, k] }));
                let right = builder.input("b", ty(dtype, &if b { [n, k] } else { [k, n] }));
                vec![builder.matmul(left, right, a, b)]
            })?;
        }
    }
    let pairs = 4.0 * 9.0 * 256.0 * 257.0 / 2.0;
    run("attention 4x256x9x64", pairs * 4.0 * 64.0, &|b| attention(b, false))?;
    run("attention_grad 4x256x9x64", pairs * 10.0 * 64.0, &|b| attention(b, true))?;
    let rows = 1024;
    run("linear_cross_entropy f32, no dweight", 4.0 * (rows * 49152 * 576) as f64, &|b| {
        let (x, w) =
            (b.input("x", ty(DType::F32, &[rows, 576])), b.input("w", ty(DType::F32, &[49152, 576])));
        let (t, s) = (b.input("t", ty(DType::U32, &[rows])), b.input("s", ty(DType::F32, &[rows])));
        b.push(Op::LinearCrossEntropy, &[x, w, t, s], Attrs::none())[..2].to_vec()
    })?;
    let wide = ty(DType::F32, &[1024, 1536]);
    let elements = wide.elements() as f64;
    run("gated", elements, &|b| {
        let (g, u) = (b.input("g", wide.clone()), b.input("u", wide.clone()));
        b.push(Op::Gated, &[g, u], Attrs::none().word("kind", "silu"))
    })?;
    run("gated_grad", elements, &|b| {
        let x = ["g", "u", "d"].map(|name| b.input(name, wide.clone()));
        b.push(Op::GatedGrad, &x, Attrs::none().word("kind", "silu"))
    })?;
    let narrow = ty(DType::F32, &[1024, 576]);
    let elements = narrow.elements() as f64;
    run("add", elements, &|b| {
        let (x, y) = (b.input("x", narrow.clone()), b.input("y", narrow.clone()));
        vec![b.add(x, y)]
    })?;
    run("rms_norm", elements, &|b| {
        let (x, w) = (b.input("x", narrow.clone()), b.input("w", ty(DType::F32, &[576])));
        b.push(Op::RmsNorm, &[x, w], Attrs::none().float("eps", 1e-5))
    })?;
    run("rms_norm_grad", elements, &|b| {
        let (x, w) = (b.input("x", narrow.clone()), b.input("w", ty(DType::F32, &[576])));
        let dy = b.input("dy", narrow.clone());
        b.push(Op::RmsNormGrad, &[x, w, dy], Attrs::none().float("eps", 1e-5))[..1].to_vec()
    })?;
    run("rope", elements, &|b| {
        let x = b.input("x", ty(DType::F32, &[4, 256, 9, 64]));
        let positions = b.input("p", ty(DType::U32, &[4, 256]));
        let frequencies = b.input("f", ty(DType::F32, &[32]));
        b.push(Op::Rope, &[x, positions, frequencies], Attrs::none())
    })?;
    run("dropout", elements, &|b| {
        let x = b.input("x", narrow.clone());
        let (seed, step) = (b.input("seed", ty(DType::U32, &[2])), b.input("step", ty(DType::U32, &[])));
        let (e, p) = (b.input("e", ty(DType::U32, &[1024])), b.input("p", ty(DType::U32, &[1024])));
        b.push(Op::Dropout, &[x, seed, step, e, p], Attrs::none().float("rate", 0.1).int("site", 3))
    })?;
    Ok(())
}

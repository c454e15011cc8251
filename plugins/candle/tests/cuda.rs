//! What only a GPU can show: `cuda/build.sh` builds this for the machine that has one.
#![cfg(feature = "cuda")]

use finetune_candle::Candle;
use finetune_plugin_api::conformance::{Random, check_device, run_bytes, run_tensors};
use finetune_plugin_api::export::{ErrorKind, JsonObject, Options, Plugin};
use finetune_plugin_api::program::{Attrs, Builder, DType, Op, Program, TensorType, text};
use finetune_plugin_api::reference::Tensor;

/// Two TiB are more than any card has: an error of that kind, after which the same device computes as ever.
#[test]
fn out_of_memory_is_an_error_and_the_device_stays_usable() {
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    let program = |size: usize| {
        let shape = format!("f32[{size},{size}]");
        let text = format!(
            "finetune.program 1\n%0 = input \"x\" : f32[]\n%1 = broadcast(%0) {{shape = [{size}, {size}]}} : {shape}\n\
             %2 = exp(%1) : {shape}\n%3 = reduce_sum(%2) {{axes = [0, 1]}} : f32[1,1]\noutput \"y\" = %3\nend\n"
        );
        text::parse(&text).unwrap()
    };
    let x = Random::new(3).floats(DType::F32, &[], 0.5, 1.0);
    let error = run_bytes(&mut device, &program(750_000), std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.state_untouched());
    let y = run_tensors(&mut device, &program(8), std::slice::from_ref(&x)).unwrap();
    let wanted = 64.0 * x.floats()[0].exp();
    assert!((y[0].floats()[0] / wanted - 1.0).abs() < 1e-5);
    let report = check_device::<Candle>(0).unwrap();
    assert!(report.is_passed(), "{report}");
}

/// Sizes and what limits what a query sees.
struct Case {
    heads: usize,
    groups: usize,
    channels: usize,
    queries: usize,
    keys: usize,
    attrs: Attrs,
    start: [u32; 2],
    valid: [u32; 2],
    has_segments: bool,
}

/// Attention and its gradients of operands that are rounded to `dtype`, computed in it or, `wide`, in f32.
fn attention(case: &Case, dtype: DType, wide: bool) -> Program {
    let mut b = Builder::new();
    let q = [2, case.queries, case.heads, case.channels];
    let k = [2, case.keys, case.groups, case.channels];
    let operands = [("q", q), ("k", k), ("v", k), ("dout", q)].map(|(name, shape)| {
        let x = b.input(name, TensorType::new(DType::F32, &shape));
        let x = b.cast(x, dtype);
        if wide { b.cast(x, DType::F32) } else { x }
    });
    let mut seen = operands[..3].to_vec();
    seen.extend(["start", "valid"].map(|name| b.input(name, TensorType::new(DType::U32, &[2]))));
    if case.has_segments {
        seen.push(b.input("segments", TensorType::new(DType::U32, &[2, case.keys])));
    }
    let attrs =
        case.attrs.clone().float("scale", 0.125).bool("segments", case.has_segments).bool("lse", true);
    let forward = b.push(Op::Attention, &seen, attrs.clone());
    seen.extend([operands[3], forward[0], forward[1]]);
    let gradients = b.push(Op::AttentionGrad, &seen, attrs);
    for (name, value) in
        [("out", forward[0]), ("dq", gradients[0]), ("dk", gradients[1]), ("dv", gradients[2])]
    {
        let value = b.cast(value, DType::F32);
        b.output(name, value);
    }
    b.finish().unwrap()
}

/// The fused kernels, which the conformance cases are too short for, against the products in f32: both types, both
/// numbers of channels, every way to limit what is seen, lengths that fill no tile.
#[test]
fn fused_attention_gives_what_attention_in_f32_gives() {
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    let plain = || Case {
        heads: 4,
        groups: 2,
        channels: 64,
        queries: 333,
        keys: 333,
        attrs: Attrs::none(),
        start: [0, 0],
        valid: [333, 200],
        has_segments: false,
    };
    let cases = [
        plain(),
        Case { channels: 128, ..plain() },
        Case { attrs: Attrs::none().bool("causal", false), ..plain() },
        Case { attrs: Attrs::none().int("window", 70), ..plain() },
        Case { has_segments: true, ..plain() },
        Case { queries: 65, start: [100, 268], valid: [165, 333], ..plain() },
        // Queries that see no key.
        Case { valid: [333, 0], ..plain() },
    ];
    for (number, case) in cases.iter().enumerate() {
        for dtype in [DType::Bf16, DType::F16] {
            let mut random = Random::new(11);
            let q = [2, case.queries, case.heads, case.channels];
            let k = [2, case.keys, case.groups, case.channels];
            let mut args: Vec<Tensor> =
                [q, k, k, q].iter().map(|shape| random.floats(DType::F32, shape, -2.0, 2.0)).collect();
            args.extend([words(&[2], &case.start), words(&[2], &case.valid)]);
            if case.has_segments {
                let segments: Vec<u32> = (0..2 * case.keys).map(|i| (i / 45) as u32).collect();
                args.push(words(&[2, case.keys], &segments));
            }
            let fused = run_tensors(&mut device, &attention(case, dtype, false), &args).unwrap();
            let wide = run_tensors(&mut device, &attention(case, dtype, true), &args).unwrap();
            for (name, (fused, wide)) in ["out", "dq", "dk", "dv"].iter().zip(fused.iter().zip(&wide)) {
                let most = wide.floats().iter().fold(0.0f64, |most, x| most.max(x.abs()));
                let off = fused.floats().iter().zip(wide.floats()).map(|(a, b)| (a - b).abs());
                let off = off.fold(0.0f64, |most, x| if x.is_nan() { f64::INFINITY } else { most.max(x) });
                println!("case {number}, {dtype}: {name} is {:.5} of the largest off", off / most);
                assert!(
                    most > 0.0 && off < 0.02 * most,
                    "case {number}, {dtype}: {name} is {off} off of {most}"
                );
            }
        }
    }
}

fn words(shape: &[usize], values: &[u32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::from_bytes(&TensorType::new(DType::U32, shape), &bytes).unwrap()
}

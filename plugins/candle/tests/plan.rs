//! What the processor really allocates while a program runs, held against what the host planned with.
#![cfg(not(any(feature = "cuda", feature = "metal")))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use finetune_candle::Candle;
use finetune_plugin_api::conformance::Random;
use finetune_plugin_api::export::{Bound, Device, JsonObject, Options, Plugin, serde_json};
use finetune_plugin_api::plan::{self, PlanOptions};
use finetune_plugin_api::program::{DType, Program, Role, text};

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code)]
// SAFETY: everything is the system's; the bytes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: what the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: what the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(bytes(layout), Ordering::Relaxed);
        // SAFETY: what the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Elements are of more than a byte here; what is of bytes is how the plugin asks whether there is memory.
fn bytes(layout: Layout) -> usize {
    if layout.align() > 1 { layout.size() } else { 0 }
}

fn count(layout: Layout) {
    let bytes = bytes(layout);
    let used = USED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(used, Ordering::Relaxed);
}

/// Rows of tokens, classes and sizes so large that what an op holds beside its operands shows, in two types.
fn programs() -> Vec<(String, Program)> {
    let mut programs = Vec::new();
    for ty in ["f32", "bf16"] {
        let mut add = |name: &str, body: &str| {
            let text = format!("finetune.program 1\n{}end\n", body.replace("TY", ty));
            programs.push((format!("{name} {ty}"), text::parse(&text).unwrap()));
        };
        add(
            "loss",
            "%0 = input \"x\" : TY[700,64]\n%1 = input \"w\" : TY[30000,64]\n%2 = input \"t\" : u32[700]\n\
             %3 = input \"weights\" : f32[700]\n\
             %4, %5, %6 = linear_cross_entropy(%0, %1, %2, %3) : f32[], TY[700,64], TY[30000,64]\n\
             output \"loss\" = %4\noutput \"dx\" = %5\noutput \"dw\" = %6\n",
        );
        add(
            "product",
            "%0 = input \"x\" : TY[1000,600]\n%1 = input \"w\" : TY[9000,600]\n\
             %2 = matmul(%0, %1) {transpose_b = true} : TY[1000,9000]\noutput \"y\" = %2\n",
        );
        add(
            "gradient of a product",
            "%0 = input \"x\" : TY[1000,600]\n%1 = input \"dy\" : TY[1000,9000]\n\
             %2 = matmul(%1, %0) {transpose_a = true} : TY[9000,600]\noutput \"dw\" = %2\n",
        );
        add(
            "attention",
            "%0 = input \"q\" : TY[4,300,8,64]\n%1 = input \"k\" : TY[4,300,2,64]\n%2 = input \"v\" : TY[4,300,2,64]\n\
             %3 = input \"start\" : u32[4]\n%4 = input \"valid\" : u32[4]\n%5 = input \"dout\" : TY[4,300,8,64]\n\
             %6, %7 = attention(%0, %1, %2, %3, %4) {causal = true, lse = true, scale = 0.125} : TY[4,300,8,64], f32[4,8,300]\n\
             %8, %9, %10 = attention_grad(%0, %1, %2, %3, %4, %5, %6, %7) {causal = true, lse = true, scale = 0.125} : \
             TY[4,300,8,64], TY[4,300,2,64], TY[4,300,2,64]\n\
             output \"dq\" = %8\noutput \"dk\" = %9\noutput \"dv\" = %10\n",
        );
        add(
            "norms",
            "%0 = input \"x\" : TY[3000,512]\n%1 = input \"w\" : TY[512]\n\
             %2 = rms_norm(%0, %1) {eps = 1e-5} : TY[3000,512]\n\
             %3, %4 = rms_norm_grad(%2, %1, %0) {eps = 1e-5} : TY[3000,512], TY[512]\n\
             %5 = softmax(%3) : TY[3000,512]\n%6 = softmax_grad(%5, %3) : TY[3000,512]\n\
             %7, %8 = gated_grad(%6, %5, %3) {kind = silu} : TY[3000,512], TY[3000,512]\n\
             %9 = sum_squares(%7) : f32[]\n\
             output \"y\" = %8\noutput \"dw\" = %4\noutput \"s\" = %9\n",
        );
        let states = ["p", "m", "v"].iter().enumerate();
        let states = states.map(|(i, name)| format!("%{i} = state \"{name}\" : f32[900,700]\n"));
        let scalars = ["scale", "lr", "c1", "c2"].iter().enumerate();
        let scalars = scalars.map(|(i, name)| format!("%{} = input \"{name}\" : f32[]\n", i + 4));
        add(
            "optimizer",
            &(states.collect::<String>()
                + "%3 = input \"g\" : f32[900,700]\n"
                + &scalars.collect::<String>()
                + "%8, %9, %10 = adamw(%0, %1, %2, %3, %4, %5, %6, %7) \
                   {beta1 = 0.9, beta2 = 0.99, eps = 1e-8, weight_decay = 0.1} : \
                   f32[900,700], f32[900,700], f32[900,700]\n\
                   update %0 = %8\nupdate %1 = %9\nupdate %2 = %10\n"),
        );
    }
    programs
}

/// The plan is what the host chooses a batch by: what a run counts as used, and what it really allocates, stay below.
/// One test, because all of the process is counted.
#[test]
fn a_run_stays_below_its_plan() {
    // What threads and small things take.
    const SLACK: usize = 4 << 20;
    let mut beyond = Vec::new();
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    let options: PlanOptions = serde_json::from_value(device.properties()["plan"].clone()).unwrap();
    for (name, program) in programs() {
        let planned = plan::peak(&program, &options);
        let mut compiled = device.compile(program.clone()).unwrap();
        let rng = &mut Random::new(11);
        let mut buffers = Vec::new();
        for arg in program.args() {
            let ty = program.ty(arg.value);
            let mut buffer = device.allocate(ty).unwrap();
            let bytes = match ty.dtype {
                DType::U32 => vec![1u32; ty.elements()].iter().flat_map(|x| x.to_le_bytes()).collect(),
                _ => rng.floats(ty.dtype, &ty.shape, -1.0, 1.0).to_bytes(),
            };
            device.upload(&mut buffer, 0, &bytes).unwrap();
            buffers.push(buffer);
        }
        let types = program.outputs().iter().map(|output| program.ty(output.value));
        let mut outputs: Vec<_> = types.map(|ty| device.allocate(ty).unwrap()).collect();
        let mut run = |device: &mut <Candle as Plugin>::Device| {
            let bound = buffers.iter_mut().zip(program.args()).map(|(buffer, arg)| match arg.role {
                Role::State => Bound::Mut(buffer),
                _ => Bound::Shared(buffer),
            });
            let mut bound: Vec<_> = bound.collect();
            let mut into: Vec<_> = outputs.iter_mut().collect();
            device.run(&mut compiled, &mut bound, &mut into).unwrap();
        };
        // The first run starts threads and fills the outputs.
        run(&mut device);
        device.reset_peak().unwrap();
        let before = USED.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        run(&mut device);
        let allocated = MOST.load(Ordering::Relaxed) - before;
        let counted = device.memory().unwrap().peak as usize;
        let allowed = planned.arena + planned.workspace;
        let line = format!("{name}: {planned:?}, counted {counted}, allocated {allocated} of {allowed}");
        println!("{line}");
        if counted > planned.total() || allocated > allowed + SLACK {
            beyond.push(line);
        }
    }
    assert!(beyond.is_empty(), "beyond the plan: {beyond:#?}");
}

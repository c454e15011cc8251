//! What a run holds at most, of the processor's memory: state is updated in its place, and an old state is let go once
//! nothing reads it. `generate` would else copy its cache for each token.
#![cfg(all(target_os = "linux", not(feature = "cuda")))]

use finetune_candle::{Candle, CandleDevice};
use finetune_plugin_api::conformance::Random;
use finetune_plugin_api::export::{Bound, Device, JsonObject, Options, Plugin};
use finetune_plugin_api::program::{DType, Program, Role, text};

/// Bytes of the state of each program: `f32[4096,4096]`.
const STATE: usize = 64 << 20;

const IN_PLACE: [(&str, &str); 3] = [
    (
        "update_slice",
        "%1 = input \"at\" : u32[]\n%2 = input \"new\" : f32[4096,3]\n\
         %3 = update_slice(%0, %2, %1) {axis = 1} : f32[4096,4096]\nupdate %0 = %3\n",
    ),
    (
        "scatter_add",
        "%1 = input \"rows\" : u32[2,3]\n%2 = input \"new\" : f32[2,3,4096]\n\
         %3 = scatter_add(%0, %1, %2) : f32[4096,4096]\nupdate %0 = %3\n",
    ),
    (
        "both",
        "%1 = input \"at\" : u32[]\n%2 = input \"rows\" : u32[1]\n%3 = input \"new\" : f32[1,4096]\n\
         %4 = scatter_add(%0, %2, %3) : f32[4096,4096]\n\
         %5 = update_slice(%4, %3, %1) {axis = 0} : f32[4096,4096]\nupdate %0 = %5\n",
    ),
];

/// The processor's `exp` and `tanh` are not done in place.
const ANEW: &str = "%1 = exp(%0) : f32[4096,4096]\n%2 = tanh(%1) : f32[4096,4096]\nupdate %0 = %2\n";

fn program(body: &str) -> Program {
    text::parse(&format!("finetune.program 1\n%0 = state \"s\" : f32[4096,4096]\n{body}end\n")).unwrap()
}

/// Resident bytes now and at most since `begin`, as the system counts them.
fn resident(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    1024 * line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap()
}

fn begin() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Bytes that a run takes beyond what was there before it: resident ones and those that the plugin counts.
fn taken(device: &mut CandleDevice, program: &Program) -> (usize, usize) {
    let rng = &mut Random::new(5);
    let mut buffers = Vec::new();
    for arg in program.args() {
        let ty = program.ty(arg.value);
        let mut buffer = device.allocate(ty).unwrap();
        let bytes = match ty.dtype {
            DType::U32 => rng.u32s(&ty.shape, 5).to_bytes(),
            // Something is in every page.
            _ => 0.5f32.to_le_bytes().repeat(ty.elements()),
        };
        device.upload(&mut buffer, 0, &bytes).unwrap();
        buffers.push(buffer);
    }
    let mut compiled = device.compile(program.clone()).unwrap();
    let roles = program.args().iter().map(|arg| arg.role);
    let mut bound: Vec<Bound<'_, _>> = buffers
        .iter_mut()
        .zip(roles)
        .map(|(buffer, role)| if role == Role::State { Bound::Mut(buffer) } else { Bound::Shared(buffer) })
        .collect();
    // Threads are there, and what a first run makes.
    device.run(&mut compiled, &mut bound, &mut []).unwrap();
    begin();
    device.reset_peak().unwrap();
    let before = (resident("VmRSS"), device.memory().unwrap().used);
    for _ in 0..3 {
        device.run(&mut compiled, &mut bound, &mut []).unwrap();
    }
    let after = device.memory().unwrap();
    assert_eq!(after.used, before.1, "what is held after a run is what was held before it");
    (resident("VmHWM") - before.0, (after.peak - before.1) as usize)
}

/// One test, for its process' memory is what it measures.
#[test]
fn a_run_holds_no_second_copy_of_its_state() {
    let mut device = Candle::open(0, &Options::from(JsonObject::new())).unwrap();
    for (name, body) in IN_PLACE {
        let (resident, counted) = taken(&mut device, &program(body));
        assert!(resident < STATE / 4, "{name} took {resident} bytes to update {STATE} in place");
        assert_eq!(counted, 0, "{name}");
    }
    let (resident, counted) = taken(&mut device, &program(ANEW));
    assert!(resident < STATE / 4 * 5, "{resident} bytes: there are two values of {STATE} at a time");
    assert_eq!(counted, STATE, "of two values of that size one is counted as the buffer's");
}

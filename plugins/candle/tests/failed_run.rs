//! What becomes of state when a run fails, on the processor.
#![cfg(not(any(feature = "cuda", feature = "metal")))]

use candle_core::{Device as Placed, Tensor};
use finetune_candle::Compiled;
use finetune_plugin_api::export::Meter;
use finetune_plugin_api::program::text;

/// What a run of `body` leaves of the state and whether it says that it touched it; `y` is given in another shape, so
/// that the op that reads it fails.
fn left(body: &str) -> (Option<Vec<f32>>, bool) {
    let text = "finetune.program 1\n%0 = state \"s\" : f32[3]\n%1 = input \"y\" : f32[3]\n\
                %2 = input \"z\" : f32[3]\n";
    let program = text::parse(&format!("{text}{body}end\n")).unwrap();
    let tensor = |values: &[f32]| (Tensor::new(values, &Placed::Cpu).unwrap(), None);
    let arguments = vec![tensor(&[1.0, 2.0, 3.0]), tensor(&[1.0, 2.0]), tensor(&[0.0; 3])];
    let run = Compiled::new(program, &Placed::Cpu).run(&Placed::Cpu, &Meter::default(), arguments);
    let failed = run.expect_err("operands of two shapes were added");
    (failed.states[0].as_ref().map(|state| state.to_vec1().unwrap()), failed.touched)
}

/// The host goes on with a state that it believes to be what it was.
#[test]
fn a_failed_run_gives_states_back_or_says_that_one_is_lost() {
    let early = left("%3 = add(%1, %2) : f32[3]\n%4 = add(%3, %0) : f32[3]\nupdate %0 = %4\n");
    assert_eq!(early, (Some(vec![1.0, 2.0, 3.0]), false), "nothing had read the state");
    let late = left("%3 = exp(%0) : f32[3]\n%4 = add(%3, %1) : f32[3]\nupdate %0 = %4\n");
    assert_eq!(late, (None, true), "nothing read the state any more, so it was let go");
}

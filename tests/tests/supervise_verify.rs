//! Back ends that compute wrongly are found before the first step.
#![cfg(unix)]

use finetune_tests::failing::{Place, losses, message, metrics, ran, ran_of, told};
use finetune_tests::{events, finetune, goldens};

/// Numbers that are one percent off would train, and badly: `--verify` finds them before the first step.
#[test]
fn wrong_numbers_are_found_before_the_first_step() {
    let place = Place::new();
    let unbroken = losses(&place.succeed("cpu", "cpu", &["--verify"]).lines);
    for (name, behaviour) in [("wrong", "run: wrong"), ("none", "run: nan"), ("wrong-step", "step: wrong")] {
        place.plugin(name, behaviour);
        let ran = place.succeed(name, name, &["--verify"]);
        told(&place, name, &ran, &[("wrong-numbers", Some("cpu:0"))]);
        let message = message(&ran, 0);
        assert!(
            message.contains("computes wrongly") && message.contains("reference interpreter"),
            "{message}"
        );
        assert_eq!(losses(&metrics(&place.out(name))), unbroken);
    }
    place.plugin("right", "");
    for (backend, precision) in [("right", "f32"), ("cpu", "bf16")] {
        let out = format!("{backend}-{precision}");
        let ran = place.succeed(&out, backend, &["--verify", "--strict", "--precision", precision]);
        assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
    }
}

/// Every kind of model and method is verified as what it is.
#[test]
fn verification_knows_every_kind_of_model() {
    let place = Place::new();
    for model in ["gpt2", "llama3", "mistral", "llama-bias-head-dim"] {
        for method in [&["--method", "lora", "--dropout", "0.1"][..], &["--method", "full"]] {
            let mut command = finetune(["train", "--json", "--steps", "1", "--batch", "2", "--seq-len", "8"]);
            command.args(["--backend", "cpu", "--verify", "--strict", "--precision", "f32"]).args(method);
            command.arg("--model").arg(goldens().join(model).join("model"));
            command.arg("--data").arg(goldens().join("text/train.jsonl"));
            command.arg("--out").arg(place.out(&format!("{model}{}", method[1])));
            let ran = ran(command.arg("--plugins").arg(place.plugins()).output().unwrap());
            assert_eq!(ran.code, Some(0), "{model} {method:?}: {}", ran.said);
        }
    }
}

/// The check needs no folder to be written into.
#[test]
fn verification_needs_no_temporary_folder() {
    let place = Place::new();
    let mut command = place.train("run", "cpu", &["--verify", "--strict"]);
    let ran = ran_of(command.env("TMPDIR", "/nowhere/at/all"));
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    place.plugin("wrong", "run: wrong");
    let mut command = place.train("wrong", "wrong", &["--verify", "--strict"]);
    let ran = ran_of(command.env("TMPDIR", "/nowhere/at/all"));
    assert_eq!(ran.code, Some(3), "it was checked: {}", ran.said);
}

//! Memory that runs out, is lost, or is not what a plugin says it is.
#![cfg(unix)]

use finetune_tests::failing::{Place, Ran, losses, metrics, told};
use finetune_tests::{assert_close, events, number};

/// Memory that runs out at a size: fewer examples at once, the same losses.
#[test]
fn out_of_memory_makes_the_micro_batch_smaller() {
    let place = Place::new();
    place.plugin("good", "");
    let unbroken = place.succeed("good", "good", &[]).lines;
    place.plugin("small", "run: most-rows 1");
    let ran = place.succeed("small", "small", &[]);
    told(&place, "small", &ran, &[("out-of-memory", Some("small:0")), ("out-of-memory", Some("small:0"))]);
    let sizes: Vec<_> =
        events(&ran.lines, "fallback").iter().map(|event| event["micro_batch"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [2, 1]);
    for (got, want) in events(&metrics(&place.out("small")), "step").iter().zip(events(&unbroken, "step")) {
        assert_eq!(got["tokens"], want["tokens"]);
        assert_close(number(got, "loss"), number(want, "loss"), 2e-5, "loss");
    }
    place.plugin("once", &format!("step 3: error out-of-memory; once: {}", place.mark("once")));
    let ran = place.succeed("once", "once", &[]);
    told(&place, "once", &ran, &[("out-of-memory", Some("once:0"))]);
    place.plugin("never", "compile: error out-of-memory");
    let ran = place.succeed("never", "never", &[]);
    let last = events(&ran.lines, "fallback").last().unwrap()["next"].clone();
    assert_eq!(last, "cpu:0", "with one example it is the next back end's turn");
    assert_eq!(losses(&metrics(&place.out("never"))), losses(&place.succeed("cpu", "cpu", &[]).lines));
}

/// What is planned must fit what is really there; what a plugin claims does not count.
#[test]
fn memory_is_planned_with_what_there_is() {
    let place = Place::new();
    place.plugin("good", "");
    let planned = |ran: &Ran| number(events(&ran.lines, "start")[0], "peak_bytes_planned") as u64;
    let whole = planned(&place.succeed("whole", "good", &[]));
    let least = planned(&place.succeed("least", "good", &["--micro-batch", "1"]));
    assert!(least < whole);
    place.plugin("tight", &format!("memory: {}", (least + whole) / 2));
    let ran = place.succeed("tight", "tight", &["--reserve", "0"]);
    assert!(
        planned(&ran) < whole && ran.said.contains("examples are computed at once in place of 4"),
        "{}",
        ran.said
    );
    assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
    let ran = place.run("strict", "tight", &["--reserve", "0", "--strict"]);
    assert_eq!(ran.code, Some(3), "{}", ran.said);

    place.plugin("liar", "memory: 1099511627776000");
    let ran = place.run("liar", "liar", &["--reserve", "900TiB"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.said.contains("--reserve") && ran.said.contains("--micro-batch"), "{}", ran.said);
    let believed = ran.said.contains("1024000.0 GiB,");
    assert!(!believed, "no machine has that much: {}", ran.said);
    place.plugin("unknown", "memory: 0");
    let ran = place.succeed("unknown", "unknown", &[]);
    assert!(events(&ran.lines, "fallback").is_empty(), "{}", ran.said);
}

/// A back end that loses memory is told of while it still trains.
#[cfg(target_os = "linux")]
#[test]
fn a_leak_is_told_of() {
    let place = Place::new();
    place.plugin("leaks", "run: leak 67108864; step: slow 700");
    let ran = place.succeed("leaks", "leaks", &["--steps", "6", "--micro-batch", "1"]);
    let leaks: Vec<_> = events(&ran.lines, "memory");
    assert!(
        leaks.iter().any(|event| event["message"].as_str().unwrap().contains("seems to lose memory")),
        "{:?} {}",
        ran.lines,
        ran.said
    );
    let recorded = metrics(&place.out("leaks"));
    assert!(!events(&recorded, "memory").is_empty(), "it is in the run's record");
    assert!(ran.said.contains("seems to lose memory"), "{}", ran.said);
}

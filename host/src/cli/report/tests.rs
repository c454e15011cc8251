use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::record::{Eval, Note};
use super::*;

/// A folder with a run's files.
fn folder(metrics: &str, config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("metrics.jsonl"), metrics).expect("written");
    fs::write(dir.path().join("config.toml"), config).expect("written");
    dir
}

fn step(step: u64, loss: &str) -> String {
    format!(
        "{{\"event\":\"step\",\"step\":{step},\"loss\":{loss},\"lr\":1e-4,\"grad_norm\":0.5,\"tokens\":100,\"step_s\":0.25,\
         \"tokens_per_s\":400.0,\"memory_bytes\":2147483648}}\n"
    )
}

fn eval(step: u64, loss: f64) -> String {
    format!("{{\"event\":\"eval\",\"step\":{step},\"loss\":{loss},\"tokens\":77}}\n")
}

const START: &str = "{\"event\":\"start\",\"backend\":\"cpu\",\"device\":\"Quick\",\"precision\":\"f32\",\"trainable\":10,\
    \"parameters\":1000,\"peak_bytes_planned\":3,\"resumed_from\":0,\"steps\":4}\n";
const CONFIG: &str = "model = \"models/Small\"\ndata = \"d.jsonl\"\nmethod = \"lora\"\nrank = 8\n";

fn opened(path: &Path) -> Run {
    Run::open(path).expect("a run")
}

/// Everything that the page says, parsed: it is well-formed, takes nothing from elsewhere, runs nothing.
fn texts(page: &str) -> String {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(page, options).expect("well-formed");
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            !["script", "link", "img", "iframe", "object", "use", "image", "a"].contains(&name),
            "{name}"
        );
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on"), "{} on {name}", attribute.name());
            let address = ["href", "src", "action"].contains(&attribute.name());
            assert!(!address, "{} on {name}", attribute.name());
        }
        let drawn = node.attribute("d").or(node.attribute("viewBox")).unwrap_or_default();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
    document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_has_the_numbers_of_the_metrics() {
    let metrics = [
        START,
        &eval(0, 5.0),
        &step(1, "4.5"),
        &step(2, "4.25"),
        &eval(2, 4.125),
        &step(3, "4.0625"),
        &eval(3, 4.2),
    ];
    let dir = folder(&metrics.concat(), CONFIG);
    let runs = [opened(dir.path())];
    let page = page::page(&runs, false);
    let text = texts(&page);
    for part in [
        "4.1250",
        "perplexity 61.87, step 2",
        "4.0625",
        "from 4.5000",
        "of 4; not finished",
        "300",
        "400 a second",
        "0.8 s",
        "1.0 k",
        "10 trained",
        "Small \u{b7} LoRA, rank 8 \u{b7} d.jsonl \u{b7} Quick (cpu) \u{b7} f32",
        "step 3: held-out loss 4.2000",
        "GiB",
        "Learning rate",
        "Gradient norm",
        "rank",
    ] {
        assert!(text.contains(part), "{part} is not in the page");
    }
    assert_eq!(page.matches("<svg").count(), 6, "the losses twice, and four measures");
    assert!(page.contains("prefers-color-scheme: dark"));
    texts(&figures::picture(&runs[0], true));
}

/// The picture's curve ends where the metrics end: the last point lies at the right end of the plane.
#[test]
fn curves_are_drawn_to_scale() {
    let metrics: String = (1..=10).map(|i| step(i, &format!("{}", 11 - i))).collect();
    let dir = folder(&metrics, CONFIG);
    let chart = figures::losses(&[opened(dir.path())], "c", (500.0, 300.0), false);
    let points = &chart.lines[0].points;
    assert_eq!((points[0], points[9]), ((1.0, 10.0), (10.0, 1.0)));
    let svg = chart.svg();
    let path =
        svg.split("class=\"line c0\" d=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a line");
    let numbers: Vec<f64> = path.split(['M', 'L', ' ']).filter_map(|number| number.parse().ok()).collect();
    assert_eq!(numbers.len(), 20);
    assert!((numbers[18] - 484.0).abs() < 0.06, "the right end: {path}");
    assert!(numbers[1] < numbers[19], "a high loss is at the top: {path}");
    let strides: Vec<f64> = numbers.chunks(2).map(|at| at[0]).collect();
    assert!(
        strides.windows(2).all(|pair| (pair[1] - pair[0] - (strides[1] - strides[0])).abs() < 0.11),
        "{path}"
    );
}

#[test]
fn steps_that_were_taken_again_count_once() {
    let again = START.replace("\"resumed_from\":0", "\"resumed_from\":1");
    let first = [START, &step(1, "3.0"), &step(2, "9.0"), &eval(2, 9.0), &step(3, "9.0")].concat();
    let want = |run: &Run| {
        let losses: Vec<_> = run.steps.iter().map(|step| (step.step, step.loss)).collect();
        assert_eq!(losses, [(1, 3.0), (2, 2.5), (3, 2.0)]);
        assert_eq!(run.evals, [Eval { step: 3, loss: 1.5, tokens: 77 }]);
        assert_eq!(run.tokens(), 300);
    };
    let second = [step(2, "2.5"), step(3, "2.0"), eval(3, 1.5)].concat();
    want(&opened(folder(&[&first, again.as_str(), &second].concat(), "").path()));
    // Also if the line that says so was lost.
    want(&opened(folder(&[&first, "{\"event\":\"sta\n", &second].concat(), "").path()));
}

#[test]
fn damage_is_passed_over_and_told() {
    let long = format!("{{\"event\":\"warning\",\"message\":\"{}\"}}\n", "x".repeat(3 << 20));
    let mut metrics = [
        START,
        &step(1, "3.0"),
        "\u{0}\u{1}junk\n",
        &long,
        &step(2, "NaN"),
        &step(3, "-Infinity"),
        &step(4, "null"),
    ]
    .concat();
    metrics.push_str(
        "{\"event\":\"warning\",\"message\":\"NaN \\\" Infinity\"}\n{\"event\":\"step\",\"step\":5,\"lo",
    );
    let dir = folder(&metrics, "not = [toml");
    let run = opened(dir.path());
    assert_eq!((run.steps.len(), run.damaged, run.settings.len()), (4, 3, 0));
    assert!(run.steps[1..].iter().all(|step| step.loss.is_nan()));
    assert_eq!(run.notes.last(), Some(&(4, Note::Warning("NaN \" Infinity".into()))));
    let text = texts(&page::page(&[run], true));
    assert!(text.contains("not a number") && text.contains("could not be read (3)"));
    // Bytes that are no text are no event either.
    fs::write(dir.path().join("metrics.jsonl"), [step(1, "1").as_bytes(), b"\xff\xfe\n"].concat())
        .expect("written");
    assert_eq!(opened(dir.path()).damaged, 1);
}

/// Names and messages may come from strangers: a device, a plugin's warning, a path.
#[test]
fn hostile_words_stay_words() {
    let bad = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\\\" ' & ]]> \\u0000\\u001b[31m\\u202e";
    let start = START.replace("Quick", bad);
    let warning = format!("{{\"event\":\"warning\",\"message\":\"{bad}\"}}\n");
    let saved = format!("{{\"event\":\"saved\",\"step\":1,\"path\":\"{bad}\"}}\n");
    let config =
        format!("model = '''{}'''\n\"<b>\" = \"<i>\"\n", bad.replace('\\', "/").replace("'", "\u{2019}"));
    let dir = folder(&[&start, step(1, "3.0").as_str(), &eval(1, 2.0), &warning, &saved].concat(), &config);
    let page = page::page(&[opened(dir.path()), opened(dir.path())], false);
    let text = texts(&page);
    assert!(text.contains("<script>alert(1)</script>"), "it is shown as it is");
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\u{202e}'));
    texts(&page::page(&[opened(dir.path())], false));
    texts(&figures::picture(&opened(dir.path()), false));
}

/// Numbers that no run has, and all that could follow from them in arithmetic.
#[test]
fn monstrous_numbers_are_drawn_or_left_out() {
    for values in [["1e308", "-1e308"], ["0", "0"], ["-1", "-2"], ["5e-324", "1e-300"], ["NaN", "null"]] {
        let metrics = [step(0, values[0]), step(u64::MAX - 1, values[1]), eval(u64::MAX, 1e308)].concat();
        let metrics =
            metrics.replace("0.25", "1e308").replace("400.0", values[0]).replace("2147483648", values[1]);
        let dir = folder(&metrics, "");
        for log in [false, true] {
            texts(&page::page(&[opened(dir.path())], log));
            texts(&figures::picture(&opened(dir.path()), log));
        }
    }
}

/// After its first step a run has a dot in every chart, at step 1 of an axis of whole numbers.
#[test]
fn a_run_of_one_step_is_seen() {
    let dir = folder(&(START.to_owned() + &step(1, "3.25")), CONFIG);
    let page = page::page(&[opened(dir.path())], false);
    // The loss is drawn for wide windows and for narrow ones.
    assert_eq!(page.matches("<circle class=\"c0\"").count(), 2 + figures::MEASURES.len());
    assert_eq!(page.matches(">1</text>").count(), 2 + figures::MEASURES.len());
}

#[test]
fn several_runs_are_compared() {
    let dirs = ["2e-4", "1e-3"].map(|lr| {
        let metrics: String = (1..=60).map(|i| step(i, &format!("{}", 9.0 / i as f64))).collect();
        folder(&metrics, &format!("model = \"m\"\nlr = {lr}\nseed = 1\n"))
    });
    let runs = dirs.each_ref().map(|dir| opened(dir.path()));
    let page = page::page(&runs, true);
    texts(&page);
    assert!(page.contains("line c0") && page.contains("line c1") && page.contains("2 runs compared"));
    assert_eq!(page.matches("<tr class=\"differs\"><th>").count(), 1, "the learning rate alone differs");
}

#[test]
fn what_is_no_run_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = Run::open(dir.path()).expect_err("no run").to_string();
    assert!(error.contains("is no run folder"), "{error}");
    let error = Run::open(folder(START, "").path()).expect_err("no step").to_string();
    assert!(error.contains("no step yet"), "{error}");
}

/// A million steps and as many warnings: the page stays small.
#[test]
fn a_long_run_makes_a_small_page() {
    let mut metrics = String::from(START);
    for i in 1..=200_000u64 {
        let _ = writeln!(
            metrics,
            "{{\"event\":\"step\",\"step\":{i},\"loss\":{},\"lr\":1e-4}}",
            1.0 + 1.0 / i as f64
        );
        if i % 10 == 0 {
            metrics.push_str("{\"event\":\"warning\",\"message\":\"again\"}\n");
            metrics += &eval(i, 2.0);
        }
    }
    let run = opened(folder(&metrics, CONFIG).path());
    assert_eq!((run.steps.len(), run.evals.len(), run.notes.len()), (200_000, 20_000, 200));
    let page = page::page(&[run], false);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    texts(&page);
}

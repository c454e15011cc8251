//! `finetune report` on a run that really was.

use finetune_tests::{events, fail, finetune, goldens, json_lines, number, plugins, succeed};

#[test]
fn a_run_becomes_a_page_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut train = finetune(["train", "--json", "--backend", "cpu", "--steps", "3", "--seq-len", "16"]);
    train
        .arg("--plugins")
        .arg(plugins())
        .arg("--model")
        .arg(goldens().join("llama3/model"))
        .arg("--out")
        .arg(&run);
    train.arg("--data").arg(goldens().join("text/train.jsonl"));
    let lines = json_lines(&succeed(train.arg("--valid").arg(goldens().join("text/valid.jsonl"))));
    let picture = dir.path().join("run.svg");
    succeed(finetune(["report"]).arg(&run));
    succeed(finetune(["report"]).arg(&run).arg("--picture").arg(&picture));
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    let picture = std::fs::read_to_string(picture).unwrap();
    let last = events(&lines, "step")[2];
    assert!(page.contains(&format!("{:.4}", number(last, "loss"))), "the last step's loss is in the page");
    for eval in events(&lines, "eval") {
        let loss = format!("{:.4}", number(eval, "loss"));
        assert!(page.contains(&loss) && picture.contains(&loss), "{loss}");
    }

    let message = fail(finetune(["report"]).arg(dir.path()));
    assert!(message.contains("is no run folder"), "{message}");
    let message =
        fail(finetune(["report"]).args([&run, &run]).arg("--picture").arg(dir.path().join("p.svg")));
    assert!(message.contains("one run"), "{message}");
}

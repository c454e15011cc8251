use std::cell::Cell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::*;
use crate::train::Settings;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("paper").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("paper").clone()).expect("text")
    }
}

/// A display without a terminal, whose clock the test sets.
fn display(about: About, before: Option<f64>) -> (Paper, Rc<Cell<f64>>, Human) {
    let (paper, clock) = (Paper::default(), Rc::new(Cell::new(0.0)));
    let now = Rc::clone(&clock);
    let human = Human::with_clock(Screen::plain(paper.clone()), about, before, move || {
        Duration::from_secs_f64(now.get())
    });
    (paper, clock, human)
}

fn config(toml: &str) -> RunConfig {
    let settings = Settings::from_toml(toml, Path::new("t.toml")).expect("settings");
    settings.resolve("runs/a".into()).expect("a run")
}

fn start(resumed_from: u64, steps: u64) -> Event {
    Event::Start {
        backend: "cpu".into(),
        device: "Two cores".into(),
        precision: "f32".into(),
        trainable: 2_442_240,
        parameters: 136_957_248,
        peak_bytes_planned: 1_395_864_371,
        resumed_from,
        steps,
    }
}

fn step(step: u64) -> Event {
    Event::Step {
        step,
        loss: 3.0 - 0.1 * step as f64,
        lr: 2e-4,
        grad_norm: 1.0,
        tokens: 2000,
        step_s: 0.5,
        tokens_per_s: 4000.0,
        memory_bytes: 1 << 30,
    }
}

/// Everything that a log file shows of a run.
#[test]
fn a_run_in_a_log() {
    let about = About::run(&config(
        "model = 'models/small'\ndata = 'no/train.jsonl'\nvalid = 'no/valid.txt'\nepochs = 2\nmicro-batch = 4\n\
         schedule = 'cosine'\nwarmup = 5",
    ));
    let (paper, clock, mut human) = display(about, None);
    human.progress("loading the model", 1, 100);
    clock.set(6.0);
    human.progress("loading the model", 50, 100);
    human.event(&start(0, 20));
    human.event(&Event::Eval { step: 0, loss: 3.1234, tokens: 8123 });
    human.event(&Event::Warning { message: "a sentence".into() });
    for n in 1..=20 {
        clock.set(6.0 + n as f64 * 0.5);
        human.event(&step(n));
    }
    human.event(&Event::Saved { step: 20, path: "runs/a/checkpoints/step-00000020".into() });
    human.event(&Event::Eval { step: 20, loss: 2.5, tokens: 8123 });
    human.event(&Event::Saved { step: 20, path: "runs/a/adapter".into() });
    human.event(&Event::End { steps: 20, loss: 1.0, seconds: 192.0 });
    human.end(Some(Path::new("runs/a/adapter")), "finetune eval");
    let expected = "\
loading the model, 50%
device    cpu, Two cores, f32
model     models/small, 134.5 M parameters
trained   LoRA, rank 8, alpha 16, all-linear, 2.4 M parameters (1.8%)
data      no/train.jsonl, 2 times
held out  no/valid.txt
steps     20 × 8 examples of up to 512 tokens, 4 at once, learning rate 2e-4, cosine, warmup 5
memory    1.3 GiB planned at most
held out  loss 3.1234, perplexity 22.72, 8,123 tokens, before training
warning: a sentence
step  1/20 loss 2.9000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:09 left
step  2/20 loss 2.8500  last 2.8000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:09 left
step  4/20 loss 2.7500  last 2.6000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:08 left
step  6/20 loss 2.6500  last 2.4000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:07 left
step  8/20 loss 2.5500  last 2.2000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:06 left
step 10/20 loss 2.4500  last 2.0000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:05 left
step 12/20 loss 2.3500  last 1.8000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:04 left
step 14/20 loss 2.2500  last 1.6000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:03 left
step 16/20 loss 2.1500  last 1.4000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:02 left
step 18/20 loss 2.0500  last 1.2000  lr 2e-4  4.0 k tokens/s  1.0 GiB  0:01 left
step 20/20 loss 1.9500  last 1.0000  lr 2e-4  4.0 k tokens/s  1.0 GiB
saved     runs/a/checkpoints/step-00000020, after step 20
held out  loss 2.5000, perplexity 12.18, after step 20
done      20 steps in 3 min 12 s, training loss 1.9500
held out  loss 3.1234 → 2.5000, perplexity 22.72 → 12.18
result    runs/a/adapter
next      finetune eval
";
    assert_eq!(paper.text(), expected);
}

/// A resumed run is compared with what was before all of its steps, not only this process's.
#[test]
fn a_resumed_run_in_a_log() {
    let about = About::run(&config("model = 'm'\ndata = 'd'\nsteps = 3\nmethod = 'full'\nbatch = 1"));
    let (paper, _, mut human) = display(about, Some(3.5));
    human.event(&start(2, 3));
    human.event(&step(3));
    human.event(&Event::Eval { step: 3, loss: 2.5, tokens: 80 });
    human.event(&Event::End { steps: 3, loss: 2.7, seconds: 0.5 });
    human.end(None, "nothing");
    let expected = "\
device    cpu, Two cores, f32
model     m, 134.5 M parameters
trained   all of the model, 2.4 M parameters (1.8%)
data      d
steps     3 × 1 example of up to 512 tokens, learning rate 2e-5
memory    1.3 GiB planned at most
resumed   after step 2
step 3/3  loss 2.7000  lr 2e-4  4.0 k tokens/s  1.0 GiB
held out  loss 2.5000, perplexity 12.18, 80 tokens, after step 3
done      3 steps in 0.5 s, training loss 2.7000
held out  loss 3.5000 → 2.5000, perplexity 33.12 → 12.18
next      nothing
";
    assert_eq!(paper.text(), expected);
}

/// Data of unknown length has no total to show.
#[test]
fn a_run_of_unknown_length_has_no_total() {
    let (paper, _, mut human) = display(About::default(), None);
    human.event(&start(0, u64::MAX));
    human.event(&step(1));
    assert!(!paper.text().contains(&u64::MAX.to_string()), "{}", paper.text());
    assert!(paper.text().ends_with("step 1    loss 2.9000  lr 2e-4  4.0 k tokens/s  1.0 GiB\n"));
}

/// What soon ends needs no line; what takes long is told of now and then.
#[test]
fn long_tasks_are_told_of() {
    let (paper, clock, mut human) = display(About::default(), None);
    for n in 0..=40 {
        clock.set(f64::from(n));
        human.progress("evaluating", n as u64, 1000);
    }
    human.progress("loading", 1, 1);
    assert_eq!(paper.text(), "evaluating, 0%\nevaluating, 1%\nevaluating, 2%\nevaluating, 3%\n");
}

#[test]
fn paths_are_shown_as_they_are() {
    let (paper, _, mut human) = display(About::default(), None);
    human.event(&Event::Saved { step: 1, path: PathBuf::from("../runs/a b") });
    human.end(None, "go on");
    assert_eq!(paper.text(), "saved     ../runs/a b, after step 1\nnext      go on\n");
}

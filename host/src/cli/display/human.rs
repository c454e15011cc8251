//! Tells a person what happens in a run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::train::{Event, Length, Method, Observer, RunConfig, ScheduleKind};

use super::bar::Bars;
use super::format;
use super::pace::Pace;
use super::screen::Screen;
use super::status::{Status, Step};

/// What a run is about, for its first lines: what no event tells.
#[derive(Clone, Debug, Default)]
pub struct About {
    model: String,
    method: String,
    data: String,
    valid: Option<String>,
    step: String,
}

impl About {
    /// What `config` says. The data's size is read from the disk if it can be.
    pub fn run(config: &RunConfig) -> About {
        let times = match config.length {
            Length::Steps(_) => String::new(),
            Length::Epochs(1) => ", once".to_owned(),
            Length::Epochs(n) => format!(", {n} times"),
        };
        About {
            model: config.model.display().to_string(),
            method: method(config),
            data: file(&config.data) + &times,
            valid: config.valid.as_deref().map(file),
            step: step(config),
        }
    }
}

fn file(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(metadata) => format!("{} ({})", path.display(), format::bytes(metadata.len())),
        Err(_) => path.display().to_string(),
    }
}

fn step(config: &RunConfig) -> String {
    let micro = match config.micro_batch {
        micro if micro < config.batch => format!(", {micro} at once"),
        _ => String::new(),
    };
    let schedule = match config.schedule {
        ScheduleKind::Constant => "",
        ScheduleKind::Linear => ", linear",
        ScheduleKind::Cosine => ", cosine",
    };
    let warmup = if config.warmup > 0 { format!(", warmup {}", config.warmup) } else { String::new() };
    format!(
        "{} of up to {} tokens{micro}, learning rate {}{schedule}{warmup}",
        plural(config.batch as u64, "example"),
        format::exact(config.seq_len as u64),
        format::small(config.lr)
    )
}

fn method(config: &RunConfig) -> String {
    match (config.method, &config.adapter, config.rank, config.alpha, &config.targets) {
        (Method::Full, ..) => "all of the model".to_owned(),
        (Method::Lora, Some(adapter), ..) => format!("LoRA from {}", adapter.display()),
        (Method::Lora, None, Some(rank), Some(alpha), Some(targets)) => {
            format!("LoRA, rank {rank}, alpha {alpha}, {targets}")
        }
        (Method::Lora, ..) => "LoRA".to_owned(),
    }
}

/// Tells a person, on a terminal with a bar and elsewhere with a line now and then.
pub struct Human {
    screen: Screen,
    about: About,
    status: Status,
    bars: Option<Bars>,
    steps_pace: Pace,
    task: Option<(String, Duration, Pace)>,
    clock: Box<dyn Fn() -> Duration>,
    /// The first held-out loss of the run.
    before: Option<f64>,
    after: Option<f64>,
    evaluated: bool,
    /// What was saved last, until it is known whether it is the run's result, which has a line of its own.
    saved: Option<(u64, PathBuf)>,
    seconds: Option<f64>,
}

impl Human {
    /// Tells of the run `about` on `screen`. `before` is the held-out loss from before the run's first step, if
    /// it is known from an earlier process.
    pub fn new(screen: Screen, about: About, before: Option<f64>) -> Human {
        let begun = Instant::now();
        Human::with_clock(screen, about, before, move || begun.elapsed())
    }

    fn with_clock(
        screen: Screen,
        about: About,
        before: Option<f64>,
        clock: impl Fn() -> Duration + 'static,
    ) -> Human {
        let bars = screen.bars().cloned().map(Bars::new);
        Human {
            screen,
            about,
            status: Status::new(0, None),
            bars,
            steps_pace: Pace::default(),
            task: None,
            clock: Box::new(clock),
            before,
            after: None,
            evaluated: false,
            saved: None,
            seconds: None,
        }
    }

    /// Ends the display with what became of the run: where its result is, and what to do with it.
    pub fn end(mut self, result: Option<&Path>, next: &str) {
        if let Some(bars) = &mut self.bars {
            bars.clear();
        }
        self.saved.take_if(|(_, saved)| result == Some(saved));
        self.tell_saved();
        let steps = self.status.step;
        if let Some(seconds) = self.seconds {
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            let mean = self.status.mean_loss();
            let loss =
                mean.map_or_else(String::new, |mean| format!(", training loss {}", format::loss(mean)));
            self.named("done", &format!("{} in {}{loss}", plural(steps, "step"), format::duration(time)));
        }
        if let (Some(before), Some(after)) = (self.before, self.after) {
            let text = format!("loss {} → {}", format::loss(before), format::loss(after));
            let (from, to) = (format::perplexity(before), format::perplexity(after));
            self.named("held out", &format!("{}, perplexity {from} → {to}", self.screen.bold(&text)));
        }
        if let Some(result) = result {
            self.named("result", &self.screen.bold(&result.display().to_string()));
        }
        self.named("next", next);
    }

    /// A line with a name.
    fn named(&self, name: &str, text: &str) {
        self.screen.named(name, text);
    }

    fn start(&mut self, start: Start) {
        self.named("device", &format!("{}, {}, {}", start.backend, start.device, start.precision));
        // What is trained beside the model is counted among all parameters, as PEFT does, but is none of the model's.
        let beside = if start.trainable < start.parameters { start.trainable } else { 0 };
        let size = format::count(start.parameters - beside);
        self.named("model", &format!("{}, {size} parameters", self.about.model));
        let share = format::share(start.trainable, start.parameters);
        let trained = format::count(start.trainable);
        self.named("trained", &format!("{}, {trained} parameters ({share})", self.about.method));
        self.named("data", &self.about.data);
        if let Some(valid) = &self.about.valid {
            self.named("held out", valid);
        }
        // A length that nobody knows is the largest number.
        let steps = Some(start.steps).filter(|steps| *steps != u64::MAX);
        let count = steps.map_or_else(String::new, |steps| format!("{} × ", format::exact(steps)));
        self.named("steps", &format!("{count}{}", self.about.step));
        self.named("memory", &format!("{} planned at most", format::bytes(start.peak)));
        if start.resumed_from > 0 {
            self.named("resumed", &format!("after step {}", format::exact(start.resumed_from)));
        }
        self.status = Status::new(start.resumed_from, steps);
    }

    fn tell_saved(&mut self) {
        if let Some((step, path)) = self.saved.take() {
            self.named("saved", &self.screen.dim(&format!("{}, after step {step}", path.display())));
        }
    }

    fn step(&mut self, step: &Step) {
        self.task = None;
        self.status.add(step);
        match &mut self.bars {
            Some(bars) => bars.show(&self.status, self.screen.width()),
            None => {
                if self.steps_pace.due((self.clock)(), step.step, self.status.steps) {
                    self.named(&self.position(), &self.status.text(usize::MAX));
                }
            }
        }
    }

    fn position(&self) -> String {
        format!("step {}", self.status.position())
    }

    fn eval(&mut self, step: u64, loss: f64, tokens: u64) {
        self.task = None;
        let first = !std::mem::replace(&mut self.evaluated, true);
        if step == 0 {
            self.before = Some(loss);
        } else {
            self.after = Some(loss);
        }
        let when = if step == 0 { "before training".to_owned() } else { format!("after step {step}") };
        let of = if first { format!(", {} tokens", format::exact(tokens)) } else { String::new() };
        let text = format!("loss {}, perplexity {}{of}", format::loss(loss), format::perplexity(loss));
        self.named("held out", &format!("{text}, {when}"));
    }
}

struct Start<'a> {
    backend: &'a str,
    device: &'a str,
    precision: &'a str,
    trainable: u64,
    parameters: u64,
    peak: u64,
    resumed_from: u64,
    steps: u64,
}

impl Observer for Human {
    fn event(&mut self, event: &Event) {
        if !matches!(event, Event::End { .. }) {
            self.tell_saved();
        }
        match event {
            Event::Start {
                backend,
                device,
                precision,
                trainable,
                parameters,
                peak_bytes_planned,
                resumed_from,
                steps,
            } => self.start(Start {
                backend,
                device,
                precision,
                trainable: *trainable,
                parameters: *parameters,
                peak: *peak_bytes_planned,
                resumed_from: *resumed_from,
                steps: *steps,
            }),
            Event::Step { step, loss, lr, tokens, step_s, memory_bytes, .. } => self.step(&Step {
                step: *step,
                loss: *loss,
                lr: *lr,
                tokens: *tokens,
                step_s: *step_s,
                memory_bytes: *memory_bytes,
            }),
            Event::Eval { step, loss, tokens } => self.eval(*step, *loss, *tokens),
            Event::Saved { step, path } => {
                self.saved = Some((*step, path.clone()));
            }
            Event::Warning { message } => {
                self.screen.line(&format!("{} {message}", self.screen.warn("warning:")));
            }
            Event::End { steps, seconds, .. } => {
                self.status.step = *steps;
                self.seconds = Some(*seconds);
            }
        }
    }

    fn progress(&mut self, what: &str, done: u64, total: u64) {
        if let Some(bars) = &mut self.bars {
            return bars.task(what, done, total);
        }
        let now = (self.clock)();
        if self.task.as_ref().is_none_or(|(name, ..)| name != what) {
            self.task = Some((what.to_owned(), now, Pace::default()));
        }
        if let Some((_, begun, pace)) = &mut self.task {
            // What is soon over needs no line.
            let long = now.saturating_sub(*begun) >= Duration::from_secs(5);
            if long && total > 0 && pace.due(now, done, Some(total)) {
                let percent = done.saturating_mul(100) / total;
                self.screen.line(&format!("{what}, {percent}%"));
            }
        }
    }
}

fn plural(n: u64, what: &str) -> String {
    format!("{} {what}{}", format::exact(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
#[path = "human_tests.rs"]
mod tests;

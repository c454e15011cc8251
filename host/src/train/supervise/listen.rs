//! What the supervisor hears of a worker, while it trains.

use std::time::{Duration, Instant};

use crate::any_path::AnyPath;
use crate::precision::Precision;

use super::super::event::Event;
use super::super::memory::Gauge;
use super::super::oversight::Sign;
use super::super::stop::StopFlag;
use super::message::{Command, Message};
use super::process::{Heard, Worker};
use super::supervisor::{End, Supervisor};
use super::watchdog::Watchdog;

/// How often the supervisor looks around while it hears nothing.
const TICK: Duration = Duration::from_millis(100);
/// How often the memory is looked at.
const MEMORY: Duration = Duration::from_secs(1);
/// Steps after which a process holds what it needs.
const STEADY: u64 = 3;

impl Supervisor<'_> {
    /// Hears a worker to its end, and passes on what it says.
    pub(super) fn listen(
        &mut self,
        worker: &mut Worker,
        stop: &StopFlag,
        dog: &mut Watchdog,
        show: &impl Fn(&str),
    ) -> End {
        let mut asked = false;
        let mut gauge = Gauge::new();
        let mut looked = Instant::now();
        loop {
            if stop.is_set() && !std::mem::replace(&mut asked, true) {
                worker.tell(&Command::Stop);
            }
            let before = Instant::now();
            match worker.hear(TICK) {
                None => dog.silence(before.elapsed(), TICK),
                Some(Heard::Closed) => return End::Silent { status: None, memory: false },
                Some(Heard::Garbage) => return End::Garbage,
                Some(Heard::Message(message)) => match *message {
                    Message::Done { stopped } => return End::Done { stopped },
                    Message::Failed(failure) => return End::Failed(failure),
                    Message::Text(text) => show(&text),
                    Message::Sign(sign) => {
                        dog.sign(sign);
                        self.sign(sign);
                    }
                    Message::Progress { what, done, total } => {
                        dog.heard();
                        self.observer.progress(&what, done, total);
                    }
                    Message::Event { event, path } => self.event(event, path, dog),
                },
            }
            if let Some(silent) = dog.gave_up() {
                return End::Hung(silent);
            }
            if looked.elapsed() >= MEMORY {
                looked = Instant::now();
                self.look_at_memory(worker, gauge.as_mut(), dog);
            }
        }
    }

    fn sign(&mut self, sign: Sign) {
        match sign {
            Sign::Kept(step) => self.kept = step,
            Sign::Recorded => self.recorded = self.history.len(),
            _ => {}
        }
    }

    fn event(&mut self, mut event: Event, path: Option<AnyPath>, dog: &mut Watchdog) {
        dog.heard();
        match &mut event {
            Event::Start { precision, resumed_from, peak_bytes_planned, .. } => {
                self.watch.begin(*peak_bytes_planned);
                self.precision =
                    [Precision::F32, Precision::Bf16].into_iter().find(|p| p.to_string() == *precision);
                (self.kept, self.step, self.began) = (*resumed_from, *resumed_from, *resumed_from);
            }
            Event::Step { step, step_s, .. } => {
                self.step = *step;
                dog.step(Duration::try_from_secs_f64(*step_s).unwrap_or_default());
            }
            Event::Saved { step, path: shown } => {
                self.kept = *step;
                if let Some(path) = path {
                    *shown = path.into();
                }
            }
            _ => {}
        }
        self.observer.event(&event);
    }

    fn look_at_memory(&mut self, worker: &mut Worker, gauge: Option<&mut Gauge>, dog: &Watchdog) {
        let Some(gauge) = gauge else { return };
        let sample = gauge.sample(worker.id());
        let steady = dog.at() == Sign::Stepping && self.step >= self.began + STEADY;
        if let Some(event) = self.watch.look(sample, steady) {
            tracing::info!("{sample:?}");
            self.observer.event(&event);
            worker.tell(&Command::Record(event));
        }
    }
}

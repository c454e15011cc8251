//! Strangers' templates run here: on threads that are held to a time, an amount of memory and a stack.
//!
//! The template library counts instructions, which bounds neither: forty of them double a text until no memory is
//! left, and one of them may sort a long list.

use crate::allowance::{Meter, release};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// What a job may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub time: Duration,
    /// Bytes that it may have allocated at once.
    pub memory: usize,
}

/// Much more than the largest conversation needs.
pub(super) const BOUNDS: Bounds = Bounds { time: Duration::from_secs(60), memory: 1 << 30 };
/// Values in values in values, as many as the memory allows, are walked within it. It takes memory only as it is used.
const STACK: usize = if cfg!(target_pointer_width = "64") { 1 << 30 } else { 16 << 20 };
/// How often a job that is not done is looked at.
const LOOK: Duration = Duration::from_millis(10);

type Job = Box<dyn FnOnce() + Send>;

/// A thread that takes one job after the other.
struct Worker {
    jobs: Sender<Job>,
    meter: &'static Meter,
}

/// Workers that wait for a job.
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// The job's result; what kept it from having one. A job that goes beyond its bounds is left behind.
pub(super) fn run<T: Send + 'static>(
    bounds: Bounds,
    job: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = match idle {
        Some(worker) => worker,
        None => Worker::start().map_err(|error| format!("no thread can be started for it: {error}"))?,
    };
    let (sender, result) = mpsc::sync_channel(1);
    let meter = worker.meter;
    let work = move || {
        meter.hold(bounds.memory);
        // What broke off is not used any more, and a rendering changes nothing that stays.
        let outcome = catch_unwind(AssertUnwindSafe(job));
        release();
        // Nobody waits any more for what comes late.
        let _ = sender.send(outcome);
    };
    if worker.jobs.send(Box::new(work)).is_err() {
        return Err("the thread that runs it is gone".into());
    }
    let end = Instant::now() + bounds.time;
    loop {
        match result.recv_timeout(LOOK) {
            Ok(outcome) => {
                IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                return outcome.unwrap_or_else(|_| {
                    Err("the template library broke off; its message is above this one".into())
                });
            }
            Err(RecvTimeoutError::Disconnected) => return Err("the thread that ran it is gone".into()),
            Err(RecvTimeoutError::Timeout) if meter.is_exceeded() => {
                return Err(format!("it takes more than {} MiB of memory", bounds.memory >> 20));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                return Err(format!("it takes longer than {} s", bounds.time.as_secs_f64()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Worker {
    fn start() -> std::io::Result<Worker> {
        // It stays as long as the allocator may look at it: for good.
        let meter: &'static Meter = Box::leak(Box::default());
        let (jobs, received) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("chat-template".into()).stack_size(STACK);
        thread.spawn(move || received.into_iter().for_each(|job| job()))?;
        Ok(Worker { jobs, meter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_an_error_and_a_panic_come_back() {
        assert_eq!(run(BOUNDS, || Ok(1)), Ok(1));
        assert_eq!(run::<u8>(BOUNDS, || Err("no".into())), Err("no".into()));
        let message = run::<u8>(BOUNDS, || panic!("on purpose")).unwrap_err();
        assert!(message.contains("broke off"), "{message}");
    }

    /// What does not come to an end, or would take all memory, is left behind, and the next job is done.
    #[test]
    fn bounds_hold() {
        let short = Bounds { time: Duration::from_millis(30), ..BOUNDS };
        let message = run(short, loop_for_good).unwrap_err();
        assert!(message.contains("longer than 0.03 s"), "{message}");
        for take in [all_at_once, piece_by_piece] {
            let message = run(BOUNDS, move || Ok(take())).unwrap_err();
            assert!(message.contains("more than 1024 MiB"), "{message}");
        }
        // What is let go does not count.
        let turns = (4 * BOUNDS.memory) >> 20;
        let again = move || Ok((0..turns).map(|_| vec![1u8; 1 << 20].len()).sum::<usize>());
        assert_eq!(run(BOUNDS, again), Ok(turns << 20));
    }

    fn loop_for_good() -> Result<u8, String> {
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn all_at_once() -> usize {
        vec![0u8; 1 << 40].len()
    }

    fn piece_by_piece() -> usize {
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        loop {
            pieces.push(vec![0; 1 << 16]);
        }
    }
}

//! Batches prepared while the device works.

use super::{Batch, DataError, Loader};
use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread::{Builder, JoinHandle},
};

/// Steps that lie ready besides the one in preparation.
const AHEAD: usize = 2;

type Step = Result<(u64, Vec<Batch>), DataError>;

/// A thread that reads and tokenizes the next steps. It gives the steps in order, each with its
/// number, then ends: after the last step, or after the first error. Dropping it stops the thread.
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Step>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts with step `first` (from 0): the number of steps already done.
    pub fn start(loader: Loader, first: u64) -> Result<Prefetch, DataError> {
        let (sender, receiver) = sync_channel(AHEAD);
        let work = move || {
            for step in first.. {
                let prepared = loader.step(step).map(|batches| (step, batches));
                let last = match &prepared {
                    Ok((_, batches)) if batches.is_empty() => return,
                    Ok(_) => false,
                    Err(_) => true,
                };
                // A closed channel means that nobody wants more.
                if sender.send(prepared).is_err() || last {
                    return;
                }
            }
        };
        let thread = Builder::new().name("data".into()).spawn(work);
        let thread = thread.map_err(|source| DataError::Io {
            action: "start a thread for",
            path: "the data".into(),
            source,
        })?;
        Ok(Prefetch { receiver: Some(receiver), thread: Some(thread) })
    }
}

impl Iterator for Prefetch {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Ok(step) = self.receiver.as_ref()?.recv() {
            return Some(step);
        }
        // The thread is over: as it should be, or by a panic that must not look like the end.
        self.receiver = None;
        self.thread.take()?.join().err().map(|_| Err(DataError::PrefetchStopped))
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread; there is no one left to hear of it here.
            let _ = thread.join();
        }
    }
}

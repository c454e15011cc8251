//! Devices whose objects belong to one thread.

use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::guard::guard;
use super::object::Reach;
use super::session::Session;
use super::{Device, Error, Options, Plugin};

/// A session on a thread of its own, on which the device is opened, used and dropped.
pub(super) struct Threaded<D: Device> {
    jobs: Option<Sender<Job<D>>>,
    thread: Option<JoinHandle<()>>,
}

type Job<D> = BorrowingJob<'static, D>;
type BorrowingJob<'a, D> = Box<dyn FnOnce(&mut Session<D>) + Send + 'a>;

impl<D: Device> Threaded<D> {
    pub(super) fn open<P: Plugin<Device = D>>(index: u32, options: Options) -> Result<Threaded<D>, Error> {
        let (jobs, queue) = channel();
        let (ready, opened) = sync_channel(1);
        let thread = Builder::new()
            .name("finetune-device".into())
            .spawn(move || serve::<P>(index, options, ready, queue))
            .map_err(|error| Error::internal(format!("the device's thread cannot be started: {error}")))?;
        let threaded = Threaded { jobs: Some(jobs), thread: Some(thread) };
        opened.recv().unwrap_or_else(|_| Err(ended()))?;
        Ok(threaded)
    }
}

fn serve<P: Plugin>(
    index: u32,
    options: Options,
    ready: SyncSender<Result<(), Error>>,
    queue: Receiver<Job<P::Device>>,
) {
    let device = match guard("open", || P::open(index, &options)) {
        Ok(device) => device,
        Err(error) => return ready.send(Err(error)).unwrap_or(()),
    };
    let mut session = Session::new(device);
    if ready.send(Ok(())).is_ok() {
        queue.into_iter().for_each(|job| job(&mut session));
    }
    session.close();
}

fn ended() -> Error {
    Error::device_lost("the device's thread has ended")
}

/// The fields drop in this order, so that nothing of `call` is left when the waiting side wakes up.
struct Task<C, R> {
    call: C,
    done: SyncSender<Result<R, Error>>,
}

impl<C, R> Task<C, R> {
    fn run<D: Device>(self, session: &mut Session<D>)
    where
        C: FnOnce(&mut Session<D>) -> Result<R, Error>,
    {
        let Task { call, done } = self;
        let result = guard("the plugin", || call(session));
        // The other side waits; it cannot be gone.
        let _ = done.send(result);
    }
}

impl<D: Device> Reach for Threaded<D> {
    type Device = D;

    fn call<R: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Session<D>) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        let (done, result) = sync_channel(1);
        let task = Task { call, done };
        let job: BorrowingJob<'_, D> = Box::new(move |session| task.run(session));
        // SAFETY: only the lifetime of what `call` borrows is extended. `recv` below returns when `done` was
        // used or dropped, and both happen only after `call` is consumed or dropped; the result cannot hold
        // what `call` borrows because it is 'static. So nothing borrowed is used after this function returns,
        // and nothing between here and there unwinds.
        #[allow(unsafe_code)]
        let job = unsafe { mem::transmute::<BorrowingJob<'_, D>, Job<D>>(job) };
        let jobs = self.jobs.as_ref().expect("present until dropped");
        if jobs.send(job).is_err() {
            return Err(ended());
        }
        result.recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl<D: Device> Drop for Threaded<D> {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It ends by itself, having caught every panic.
            let _ = thread.join();
        }
    }
}

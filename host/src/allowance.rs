//! The allocator of this process: the system's, and it can hold a thread to an allowance of memory.
//!
//! A library that runs a stranger's code, as that of chat templates, takes what memory it is told to take, and where
//! there is no more the process ends. So such a thread is given an allowance. When it asks for more it is held, for
//! good: an allocator can neither unwind nor refuse without ending the process. What waits for the thread sees that
//! ([`Meter::is_exceeded`]) and goes on without it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What an allocation costs besides its bytes. It bounds their number, and by that how deeply values can lie in each
/// other: what walks such values takes stack for each.
const EACH: usize = 2 << 10;

thread_local! {
    /// Neither has a destructor, so that the allocator may use them as long as the thread lives.
    static METER: Cell<Option<&'static Meter>> = const { Cell::new(None) };
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Whether a thread has used up its allowance.
#[derive(Debug, Default)]
pub(crate) struct Meter(AtomicBool);

impl Meter {
    /// Whether the thread asked for more than it was allowed, and is held.
    pub fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Holds this thread to `bytes` from now on, until [`release`].
    pub fn hold(&'static self, bytes: usize) {
        LEFT.set(bytes);
        METER.set(Some(self));
    }
}

/// Lets this thread have what it wants again.
pub(crate) fn release() {
    METER.set(None);
}

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn take(bytes: usize) {
    let Some(meter) = METER.get() else { return };
    match LEFT.get().checked_sub(bytes.saturating_add(EACH)) {
        Some(left) => LEFT.set(left),
        None => {
            meter.0.store(true, Ordering::Release);
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}

fn give_back(bytes: usize) {
    if METER.get().is_some() {
        LEFT.set(LEFT.get().saturating_add(bytes.saturating_add(EACH)));
    }
}

// SAFETY: every call is the system allocator's own, with the same arguments. What comes before it neither allocates nor
// unwinds: two cells of the thread, without destructors, and at worst a sleep without an end.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give_back(layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while the bytes are copied.
        take(size);
        let moved = unsafe { System.realloc(pointer, layout, size) };
        give_back(layout.size());
        moved
    }
}

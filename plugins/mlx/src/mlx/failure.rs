//! Why a call of MLX failed: its message, or what happened in a closure that it called.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};

use finetune_plugin_api::export::Error;

thread_local! {
    /// What MLX said last on this thread.
    pub(super) static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Why a closure that MLX called on this thread failed.
    pub(super) static FAILED: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

pub(super) enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

pub(super) extern "C" fn keep_message(message: *const c_char, _: *mut c_void) {
    // SAFETY: MLX passes a C string that lives through the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    let _ = SAID.try_with(|said| said.replace(Some(text)));
}

/// The error for a call that failed: a closure's own, or what MLX said.
pub fn failure() -> Error {
    let said = SAID.take();
    match FAILED.take() {
        Some(Failure::Panic(payload)) => std::panic::resume_unwind(payload),
        Some(Failure::Error(error)) => error,
        None => from_message(&said.unwrap_or_default()),
    }
}

fn from_message(message: &str) -> Error {
    // Where in the C interface it was caught says nothing to a person.
    let text = message.rsplit_once(" at /").map_or(message, |(text, _)| text);
    match super::prepare::forget_broken_kernels(text) {
        None => Error::from_driver("MLX", text),
        Some(done) => Error::internal(format!("MLX failed: {text}; {done}")),
    }
}

pub fn check(status: c_int) -> Result<(), Error> {
    if status == 0 { Ok(()) } else { Err(failure()) }
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::export::ErrorKind;

    use super::*;

    #[test]
    fn a_failure_without_a_word_is_said_once() {
        assert_eq!(failure().message(), "MLX failed: it gave no reason");
    }

    /// What MLX says ends with where it was caught, which is left out.
    #[test]
    fn messages_keep_what_a_person_can_use() {
        let error =
            from_message("[malloc_async] Unable to allocate 8 bytes. at /src/mlx/c/transforms.cpp:73");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(error.message(), "MLX could not allocate: [malloc_async] Unable to allocate 8 bytes.");
    }
}

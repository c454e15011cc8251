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
        None => from_message(&said.unwrap_or_else(|| "MLX failed and gave no reason".into())),
    }
}

fn from_message(message: &str) -> Error {
    // Where in the C interface it was caught says nothing to a person.
    let text = message.rsplit_once(" at /").map_or(message, |(text, _)| text);
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&OUT_OF_MEMORY) {
        return Error::out_of_memory(format!("MLX: {text}"));
    }
    if says(&DEVICE_LOST) {
        return Error::device_lost(format!("MLX: {text}"));
    }
    Error::internal(format!("MLX: {text}"))
}

/// What MLX, Metal, CUDA and its libraries say, in lower case, when memory is short.
const OUT_OF_MEMORY: [&str; 6] = [
    "out of memory",
    "insufficient memory",
    "unable to allocate",
    "bad_alloc",
    "maximum allowed buffer",
    "status_alloc_failed",
];

/// And when nothing more can be done on the device by this process.
const DEVICE_LOST: [&str; 7] = [
    "device lost",
    "device was lost",
    "device removed",
    "context is destroyed",
    "illegal memory access",
    "unspecified launch failure",
    "hardware error",
];

pub fn check(status: c_int) -> Result<(), Error> {
    if status == 0 { Ok(()) } else { Err(failure()) }
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::export::ErrorKind;

    use super::*;

    /// The host makes batches smaller when memory is short, and goes on elsewhere when a device is lost.
    #[test]
    fn messages_have_the_kind_that_the_host_acts_on() {
        let kind = |message: &str| from_message(message).kind();
        for message in [
            "[malloc_async] Unable to allocate 8589934592 bytes. at /src/mlx/c/transforms.cpp:73",
            "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
            "[metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum allowed buffer size",
            "cudaMallocManaged failed: out of memory.",
            "cublasLtMatmul failed: CUBLAS_STATUS_ALLOC_FAILED",
        ] {
            assert_eq!(kind(message), ErrorKind::OutOfMemory, "{message}");
        }
        let lost = "cudaStreamSynchronize(stream_) failed: an illegal memory access was encountered";
        assert_eq!(kind(lost), ErrorKind::DeviceLost);
        assert_eq!(kind("[matmul] Last dimension of first input must match"), ErrorKind::Internal);
    }
}

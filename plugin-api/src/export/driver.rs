//! What drivers and their libraries say, as errors of the kind that the host acts on.

use super::Error;

/// When memory is short, in lower case. Of CUDA and its libraries, Metal, and C++.
const OUT_OF_MEMORY: [&str; 11] = [
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "alloc_failed",
    "failed to allocate",
    "unable to allocate",
    "bad_alloc",
    "insufficient memory",
    "maximum allowed buffer",
    // Of Metal: more buffers than the system has room for.
    "resource limit (",
    // candle's word for a buffer that Metal did not make.
    "failed to create metal resource: buffer",
];

/// When nothing more can be done on the device by this process, in lower case: CUDA's names and sentences for errors
/// that stay, and Metal's for a command buffer that failed.
const DEVICE_LOST: [&str; 24] = [
    "device lost",
    "device_lost",
    "device was lost",
    "device removed",
    "context is destroyed",
    "context_is_destroyed",
    "ecc_uncorrectable",
    "uncorrectable ecc",
    "hardware error",
    "hardware stack error",
    "hardware_stack_error",
    "illegal_address",
    "illegal memory access",
    "illegal_instruction",
    "illegal instruction",
    "invalid_pc",
    "invalid program counter",
    "misaligned_address",
    "misaligned address",
    "launch_failed",
    "unspecified launch failure",
    "launch_timeout",
    "command buffer had following error",
    "failed to create metal resource: commandbuffer",
];

impl Error {
    /// An error that a driver or a library over it has given as text only: out of memory and a lost device are told by
    /// their words, all else is an internal error. `who` begins the sentence, the first line of `text` ends it.
    pub fn from_driver(who: &str, text: &str) -> Error {
        let lower = text.to_lowercase();
        let text = text.trim().lines().next().unwrap_or("it gave no reason");
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if says(&OUT_OF_MEMORY) {
            Error::out_of_memory(format!("{who} could not allocate: {text}"))
        } else if says(&DEVICE_LOST) {
            Error::device_lost(format!("{who} lost the device: {text}"))
        } else {
            Error::internal(format!("{who} failed: {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::ErrorKind;

    /// The host makes batches smaller when memory is short, and goes on elsewhere when a device is lost.
    #[test]
    fn what_drivers_say_has_the_kind_that_the_host_acts_on() {
        let kind = |text: &str| Error::from_driver("it", text).kind();
        for text in [
            "[malloc_async] Unable to allocate 8589934592 bytes.",
            "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
            "[metal::malloc] Attempting to allocate 1 bytes which is greater than the maximum allowed buffer size",
            "cudaMallocManaged failed: out of memory.",
            "cublasLtMatmul failed: CUBLAS_STATUS_ALLOC_FAILED",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "Metal error FailedToAllocate: failed to allocate 12 bytes",
            "std::bad_alloc",
            "[metal::malloc] Resource limit (499000) exceeded.",
        ] {
            assert_eq!(kind(text), ErrorKind::OutOfMemory, "{text}");
        }
        for text in [
            "cudaStreamSynchronize(stream_) failed: an illegal memory access was encountered",
            "DriverError(CUDA_ERROR_MISALIGNED_ADDRESS, \"misaligned address\")",
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
            "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")",
            "DriverError(CUDA_ERROR_HARDWARE_STACK_ERROR, \"hardware stack error\")",
            "Command buffer had following error: Caused GPU Hang Error",
        ] {
            assert_eq!(kind(text), ErrorKind::DeviceLost, "{text}");
        }
        assert_eq!(kind("[matmul] Last dimension of first input must match"), ErrorKind::Internal);
        assert_eq!(Error::from_driver("MLX", "no\nat line 3").message(), "MLX failed: no");
    }
}

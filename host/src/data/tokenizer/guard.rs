//! The tokenizer library panics on some files and texts that it should refuse; both come from strangers.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of a call of the library; the reason, if it fails in whatever way.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // What is used after a panic is nothing that the call could have changed half way.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library broke off; its message is above this one".into()),
    }
}

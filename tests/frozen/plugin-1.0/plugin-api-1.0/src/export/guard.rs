use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Error;

/// Runs a plugin's code; a panic in it becomes an error.
///
/// No panic hook is installed: a hook is global to the process wherever libraries share a standard library,
/// and the message is in the payload. What the call had half done is dealt with as after any other error.
pub(super) fn guard<T>(what: &str, call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|payload| Err(Error::internal(format!("{what} panicked: {}", message(payload)))))
}

fn message(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(payload) => match payload.downcast::<&str>() {
            Ok(text) => return text.to_string(),
            Err(payload) => payload,
        },
    };
    // Dropping a payload of the plugin's own type runs its code, which may panic in turn.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(text))) {
        std::mem::forget(second);
    }
    "without a message".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::ErrorKind;

    /// A panic that left the library would abort the host.
    #[test]
    fn every_sort_of_panic_becomes_an_internal_error() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let formatted = guard::<()>("run", || panic!("shape {}", 3)).unwrap_err();
        assert_eq!(formatted.message(), "run panicked: shape 3");
        assert_eq!(formatted.kind(), ErrorKind::Internal);
        assert!(!formatted.state_untouched());
        let literal = guard::<()>("run", || panic!("plain")).unwrap_err();
        assert_eq!(literal.message(), "run panicked: plain");
        let bomb = guard::<()>("run", || std::panic::panic_any(Bomb)).unwrap_err();
        assert_eq!(bomb.message(), "run panicked: without a message");
    }
}

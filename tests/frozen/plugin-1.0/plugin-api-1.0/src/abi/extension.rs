use std::mem::ManuallyDrop;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::type_layout::TypeLayout;

/// A value of a type that the two sides agree on by name, such as `"metal-heap/1"`.
///
/// This is how the interface grows. The type is typically a table of functions or a trait object made by
/// `abi_stable`; it lives in a crate (or a later version of this one) that both sides use. Its layout travels
/// with it and is compared before it is handed out.
#[repr(C)]
#[derive(StableAbi)]
pub struct Extension {
    layout: &'static TypeLayout,
    value: *mut (),
    // Runs in the library that made the value, whose allocator it came from.
    free: extern "C" fn(value: *mut (), drop_value: bool),
}

/// The two sides mean different types by one name.
#[derive(Debug, thiserror::Error)]
#[error("the extension's type differs from the one expected: {0}")]
pub struct ExtensionError(String);

// SAFETY: `new` takes only values that are `Send`, and nothing can be reached through a shared reference.
#[allow(unsafe_code)]
unsafe impl Send for Extension {}

impl Extension {
    /// Wraps a value.
    pub fn new<T: StableAbi + Send + 'static>(value: T) -> Extension {
        let value = Box::into_raw(Box::new(value)).cast();
        Extension { layout: T::LAYOUT, value, free: free::<T> }
    }

    /// The value, if it is a `T` to the side that made it, too.
    pub fn into_value<T: StableAbi + Send + 'static>(self) -> Result<T, ExtensionError> {
        check_layout_compatibility(T::LAYOUT, self.layout)
            .map_err(|errors| ExtensionError(errors.to_string()))?;
        let this = ManuallyDrop::new(self);
        // SAFETY: `value` points to a live value whose layout was just found to be that of `T`; it is moved out
        // once, and `this` is not dropped, so only the allocation remains to be freed, by the side that made it.
        #[allow(unsafe_code)]
        let value = unsafe { this.value.cast::<T>().read() };
        (this.free)(this.value, false);
        Ok(value)
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        (self.free)(self.value, true);
    }
}

extern "C" fn free<T>(value: *mut (), drop_value: bool) {
    // SAFETY: the only callers are `into_value` and `drop`, each at most once and never both, with the pointer
    // that `new` got from a box of this type; `ManuallyDrop<T>` has the layout of `T`.
    #[allow(unsafe_code)]
    unsafe {
        if drop_value {
            drop(Box::from_raw(value.cast::<T>()));
        } else {
            drop(Box::from_raw(value.cast::<ManuallyDrop<T>>()));
        }
    }
}

#[cfg(test)]
mod tests {
    use abi_stable::std_types::{RArc, RString};

    use super::*;

    /// The value is handed over once and dropped once, whether it was asked for or not.
    #[test]
    fn a_value_comes_back_and_is_dropped_once() {
        let shared = RArc::new(RString::from("here"));
        let value: RArc<RString> = Extension::new(shared.clone()).into_value().unwrap();
        assert_eq!(value.as_str(), "here");
        drop(value);
        drop(Extension::new(shared.clone()));
        assert_eq!(RArc::strong_count(&shared), 1);
    }

    /// Taking a value for what it is not would be undefined behaviour.
    #[test]
    fn another_type_is_refused() {
        let error = Extension::new(7u32).into_value::<u64>().unwrap_err();
        assert!(error.to_string().contains("differs"), "{error}");
    }
}

//! Functions from arrays to arrays that MLX calls.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use finetune_plugin_api::export::Error;
use mlx_sys::{mlx_closure, mlx_vector_array};

use super::failure::{FAILED, Failure, check};
use super::{Array, Vector, arrays_of};

type Body = Box<dyn Fn(&[Array]) -> Result<Vec<Array>, Error>>;

/// A function from arrays to arrays that MLX calls.
pub struct Closure(mlx_closure);

impl Closure {
    pub fn new(body: impl Fn(&[Array]) -> Result<Vec<Array>, Error> + 'static) -> Closure {
        let body: Box<Body> = Box::new(Box::new(body));
        // SAFETY: the payload is a box that only `call_body` reads and `drop_body` frees.
        Closure(unsafe {
            mlx_sys::mlx_closure_new_func_payload(
                Some(call_body),
                Box::into_raw(body).cast(),
                Some(drop_body),
            )
        })
    }

    /// The same function, traced once for the shapes that it meets, and fused.
    pub fn compiled(&self) -> Result<Closure, Error> {
        // SAFETY: an empty handle that `mlx_compile` fills.
        let mut compiled = Closure(unsafe { mlx_sys::mlx_closure_new() });
        // SAFETY: live closures.
        check(unsafe { mlx_sys::mlx_compile(&mut compiled.0, self.0, false) })?;
        Ok(compiled)
    }

    /// Calls it. MLX keeps no hold of the inputs except in the graph of the results.
    pub fn apply(&self, inputs: &[&Array]) -> Result<Vec<Array>, Error> {
        let inputs = Vector::new(inputs);
        let mut outputs = Vector::empty();
        // SAFETY: live handles.
        check(unsafe { mlx_sys::mlx_closure_apply(&mut outputs.0, self.0, inputs.0) })?;
        outputs.arrays()
    }

    /// The products of `cotangents` with the function's derivative at `primals`.
    pub fn vjp(&self, primals: &[&Array], cotangents: &[&Array]) -> Result<Vec<Array>, Error> {
        let (primals, cotangents) = (Vector::new(primals), Vector::new(cotangents));
        let (mut values, mut products) = (Vector::empty(), Vector::empty());
        // SAFETY: live handles.
        check(unsafe { mlx_sys::mlx_vjp(&mut values.0, &mut products.0, self.0, primals.0, cotangents.0) })?;
        products.arrays()
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { mlx_sys::mlx_closure_free(self.0) };
    }
}

extern "C" fn call_body(
    outputs: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int {
    let called = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the payload is the box of `Closure::new`.
        let body = unsafe { &*payload.cast::<Body>() };
        let results = body(&arrays_of(inputs)?)?;
        let results = Vector::new(&results.iter().collect::<Vec<_>>());
        // SAFETY: an empty list to be set, and a live one that is copied.
        unsafe { check(mlx_sys::mlx_vector_array_set(outputs, results.0)) }
    }));
    let failure = match called {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => Failure::Error(error),
        Err(payload) => Failure::Panic(payload),
    };
    FAILED.replace(Some(failure));
    1
}

extern "C" fn drop_body(payload: *mut c_void) {
    // A destructor that panics must not unwind into C++.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the box of `Closure::new`, freed once.
        drop(unsafe { Box::from_raw(payload.cast::<Body>()) });
    }));
}

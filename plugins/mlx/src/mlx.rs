//! MLX's C interface behind safe calls: the only room with `unsafe` code.
//!
//! Arrays and streams are mlx-rs's. Its functions over them are not used: they choose a stream from thread-local
//! state, lack what this plugin needs (dependencies, closures of any arity that are kept), and some panic. Here
//! every call names its stream and every failure is an [`Error`].
//!
//! What all the `unsafe` blocks rest on: handles come from [`Array`]s that live through the call; slices are
//! passed as pointer and length; a result handle is made by `mlx_array_new` and owned by an [`Array`] at once,
//! so it is freed whatever happens; C strings are literals.

#![allow(unsafe_code)]

mod calls;
mod closure;
mod failure;
mod info;
mod prepare;

use std::ffi::c_int;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::DType;
pub use mlx_rs::Array;
use mlx_sys::{mlx_array, mlx_dtype, mlx_vector_array};

pub use calls::Mlx;
pub use closure::Closure;
pub use failure::{check, failure};
pub use info::{DeviceInfo, device_count, is_available, version};
pub use prepare::{prepare, switch};

pub fn dtype(dtype: DType) -> Result<mlx_dtype, Error> {
    Ok(match dtype {
        DType::F32 => mlx_sys::mlx_dtype__MLX_FLOAT32,
        DType::F16 => mlx_sys::mlx_dtype__MLX_FLOAT16,
        DType::Bf16 => mlx_sys::mlx_dtype__MLX_BFLOAT16,
        DType::U32 => mlx_sys::mlx_dtype__MLX_UINT32,
        DType::Bool => mlx_sys::mlx_dtype__MLX_BOOL,
        other => return Err(Error::unsupported(format!("the mlx plugin has no element type {other}"))),
    })
}

const U64: mlx_dtype = mlx_sys::mlx_dtype__MLX_UINT64;
const I32: mlx_dtype = mlx_sys::mlx_dtype__MLX_INT32;

/// A shape as MLX takes it.
pub fn ints(values: &[usize]) -> Result<Vec<i32>, Error> {
    let each = |&value: &usize| {
        i32::try_from(value)
            .map_err(|_| Error::unsupported(format!("MLX cannot count to {value} in a shape")))
    };
    values.iter().map(each).collect()
}

/// An array with a copy of these bytes (row major).
pub fn from_bytes(bytes: &[u8], shape: &[usize], ty: DType) -> Result<Array, Error> {
    let count: usize = shape.iter().product();
    assert_eq!(bytes.len(), count * ty.size());
    let dims = ints(shape)?;
    let aligned;
    let mut data = bytes.as_ptr();
    if !data.addr().is_multiple_of(ty.size()) {
        aligned = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        let aligned: Vec<u64> = aligned.collect();
        data = aligned.as_ptr().cast();
        // SAFETY: as below; the copy lives through the call.
        return owned(unsafe {
            mlx_sys::mlx_array_new_data(data.cast(), dims.as_ptr(), dims.len() as c_int, dtype(ty)?)
        });
    }
    // SAFETY: `data` points to as many aligned elements as the shape has, which MLX copies.
    owned(unsafe { mlx_sys::mlx_array_new_data(data.cast(), dims.as_ptr(), dims.len() as c_int, dtype(ty)?) })
}

fn owned(handle: mlx_array) -> Result<Array, Error> {
    if handle.ctx.is_null() {
        return Err(failure());
    }
    // SAFETY: a handle that MLX just made and nobody else has.
    Ok(unsafe { Array::from_ptr(handle) })
}

/// A scalar of 64 bits.
pub fn u64_scalar(value: u64) -> Result<Array, Error> {
    // SAFETY: one element, which MLX copies.
    owned(unsafe { mlx_sys::mlx_array_new_data((&raw const value).cast(), std::ptr::null(), 0, U64) })
}

/// Copies the bytes of an evaluated, row-contiguous array.
pub fn copy_bytes(array: &Array, offset: usize, into: &mut [u8]) -> Result<(), Error> {
    // SAFETY: the handle is live; the accessors only differ in the pointer's type.
    let data: *const u8 = unsafe {
        let handle = array.as_ptr();
        match mlx_sys::mlx_array_dtype(handle) {
            mlx_sys::mlx_dtype__MLX_FLOAT32 => mlx_sys::mlx_array_data_float32(handle).cast(),
            mlx_sys::mlx_dtype__MLX_FLOAT16 => mlx_sys::mlx_array_data_float16(handle).cast(),
            mlx_sys::mlx_dtype__MLX_BFLOAT16 => mlx_sys::mlx_array_data_bfloat16(handle).cast(),
            mlx_sys::mlx_dtype__MLX_UINT32 => mlx_sys::mlx_array_data_uint32(handle).cast(),
            mlx_sys::mlx_dtype__MLX_BOOL => mlx_sys::mlx_array_data_bool(handle).cast(),
            other => return Err(Error::internal(format!("a buffer holds elements of MLX's type {other}"))),
        }
    };
    if data.is_null() {
        return Err(failure());
    }
    // SAFETY: as above.
    let total = unsafe { mlx_sys::mlx_array_nbytes(array.as_ptr()) };
    assert!(offset.checked_add(into.len()).is_some_and(|end| end <= total));
    // SAFETY: the array is evaluated and contiguous, so `total` bytes can be read there; the range was checked.
    unsafe { std::ptr::copy_nonoverlapping(data.add(offset), into.as_mut_ptr(), into.len()) };
    Ok(())
}

/// Whether the elements of an evaluated array lie one after the other, row by row.
pub fn is_row_contiguous(array: &Array) -> Result<bool, Error> {
    let mut is = false;
    // SAFETY: a live handle; writes one value.
    check(unsafe { mlx_sys::_mlx_array_is_row_contiguous(&mut is, array.as_ptr()) })?;
    Ok(is)
}

/// A list of arrays in MLX's hands.
struct Vector(mlx_vector_array);

impl Vector {
    fn new(arrays: &[&Array]) -> Vector {
        let handles: Vec<mlx_array> = arrays.iter().map(|array| array.as_ptr()).collect();
        // SAFETY: live handles, which MLX copies.
        Vector(unsafe { mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len()) })
    }

    fn empty() -> Vector {
        // SAFETY: makes an empty list.
        Vector(unsafe { mlx_sys::mlx_vector_array_new() })
    }

    fn arrays(&self) -> Result<Vec<Array>, Error> {
        arrays_of(self.0)
    }
}

fn arrays_of(vector: mlx_vector_array) -> Result<Vec<Array>, Error> {
    // SAFETY: a live list.
    let count = unsafe { mlx_sys::mlx_vector_array_size(vector) };
    (0..count).map(|i| result(|out| unsafe { mlx_sys::mlx_vector_array_get(out, vector, i) })).collect()
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

fn result(call: impl FnOnce(*mut mlx_array) -> c_int) -> Result<Array, Error> {
    // SAFETY: an empty handle, owned from here on.
    let array = unsafe { Array::from_ptr(mlx_sys::mlx_array_new()) };
    let mut handle = array.as_ptr();
    let status = call(&mut handle);
    // The call has replaced what the handle points to: it belongs to the new one.
    std::mem::forget(array);
    // SAFETY: the only owner.
    let array = unsafe { Array::from_ptr(handle) };
    check(status)?;
    Ok(array)
}

/// Begins the evaluation of arrays; returns before it is done.
pub fn eval_async(arrays: &[&Array]) -> Result<(), Error> {
    let vector = Vector::new(arrays);
    // SAFETY: a live list.
    check(unsafe { mlx_sys::mlx_async_eval(vector.0) })
}

/// Evaluates arrays.
pub fn eval(arrays: &[&Array]) -> Result<(), Error> {
    let vector = Vector::new(arrays);
    // SAFETY: a live list.
    check(unsafe { mlx_sys::mlx_eval(vector.0) })
}

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

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Once;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::DType;
pub use mlx_rs::Array;
use mlx_rs::Stream;
use mlx_sys::{mlx_array, mlx_closure, mlx_dtype, mlx_stream, mlx_vector_array};

thread_local! {
    /// What MLX said last on this thread.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Why a closure that MLX called on this thread failed.
    static FAILED: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

extern "C" fn keep_message(message: *const c_char, _: *mut c_void) {
    // SAFETY: MLX passes a C string that lives through the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    let _ = SAID.try_with(|said| said.replace(Some(text)));
}

/// To be called before anything else of MLX: f32 means f32, and an error is kept instead of ending the process,
/// as MLX would have it.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tf32 = std::env::var_os("FINETUNE_MLX_TF32").is_some_and(|value| value == "1");
        // SAFETY: MLX has not been used, so nothing of it reads the environment now; the host's worker opens its
        // device before it starts threads that do.
        let set = |name: &str, value: &str| unsafe { std::env::set_var(name, value) };
        set("MLX_ENABLE_TF32", if tf32 { "1" } else { "0" });
        let default = |name: &str, value: &str| {
            if std::env::var_os(name).is_none() {
                set(name, value);
            }
        };
        // On CUDA, MLX keeps a graph of each sequence of kernels, and by default fails when it has met more than
        // twice 400 of them. Each length of rows has its own, and so has generation.
        default("MLX_CUDA_GRAPH_CACHE_SIZE", "2000");
        default("MLX_ENABLE_CACHE_THRASHING_CHECK", "0");
        // mlx-rs sets its own handler at its first call; this one has to come after it.
        let _ = mlx_rs::memory::active_memory();
        // SAFETY: the handler is a function of this library, which is never unloaded.
        unsafe { mlx_sys::mlx_set_error_handler(Some(keep_message), std::ptr::null_mut(), None) };
        // MLX would make equal expressions one: what the backward pass computes again, in f32 even, would be kept
        // from the forward pass on, for every layer. A program says itself what is computed once.
        // SAFETY: sets a number.
        unsafe { mlx_sys::mlx_set_compile_mode(mlx_sys::mlx_compile_mode__MLX_COMPILE_MODE_NO_SIMPLIFY) };
        if let Some(folder) = kernels_folder() {
            default("MLX_PTX_CACHE_DIR", &folder);
        }
    });
}

/// Where MLX for CUDA keeps the kernels that it has compiled, a minute or two of work: in the user's cache, by version
/// and architecture. MLX's own choice is a folder of a fixed name in the system's for temporary files, where another
/// user may have put something else.
fn kernels_folder() -> Option<String> {
    if !cfg!(target_os = "linux") || !is_available(true, 0) {
        return None;
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    let info = DeviceInfo::of(true, 0).ok()?;
    let architecture = info.text(c"architecture").or_else(|| info.text(c"compute_capability"))?;
    let path = cache.join("finetune").join(format!("mlx-{}-{architecture}", version()));
    path.to_str().map(str::to_owned)
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

    /// The same function, traced once for the shapes that it meets, simplified and fused.
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

/// Where ops are computed: one stream of one device.
pub struct Mlx {
    stream: Stream,
    /// Metal or CUDA.
    pub gpu: bool,
}

macro_rules! unary {
    ($($name:ident $function:ident;)*) => {$(
        pub fn $name(&self, a: &Array) -> Result<Array, Error> {
            self.op(|out, s| unsafe { mlx_sys::$function(out, a.as_ptr(), s) })
        }
    )*};
}

macro_rules! binary {
    ($($name:ident $function:ident;)*) => {$(
        pub fn $name(&self, a: &Array, b: &Array) -> Result<Array, Error> {
            self.op(|out, s| unsafe { mlx_sys::$function(out, a.as_ptr(), b.as_ptr(), s) })
        }
    )*};
}

/// No array.
fn none() -> mlx_array {
    mlx_array { ctx: std::ptr::null_mut() }
}

fn optional(array: Option<&Array>) -> mlx_array {
    array.map_or_else(none, Array::as_ptr)
}

/// The functions have the names and meaning of MLX's.
impl Mlx {
    /// The default stream of a device, on this thread.
    pub fn on(gpu: bool, index: i32) -> Result<Mlx, Error> {
        let kind = if gpu { mlx_rs::DeviceType::Gpu } else { mlx_rs::DeviceType::Cpu };
        let device = mlx_rs::Device::new(kind, index);
        // SAFETY: the device was found to be there. It is the default of the process from now on: functions that
        // take no stream follow it.
        let stream = Stream::try_default_on_device(&device).map_err(|_| failure())?;
        mlx_rs::Device::set_default(&device);
        Ok(Mlx { stream, gpu })
    }

    /// The same stream, for a closure that MLX keeps.
    pub fn same(&self) -> Result<Mlx, Error> {
        Ok(Mlx { stream: self.stream.clone(), gpu: self.gpu })
    }

    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: a live stream.
        check(unsafe { mlx_sys::mlx_synchronize(self.stream.as_ptr()) })
    }

    fn op(&self, call: impl FnOnce(*mut mlx_array, mlx_stream) -> c_int) -> Result<Array, Error> {
        result(|out| call(out, self.stream.as_ptr()))
    }

    unary! {
        abs mlx_abs; neg mlx_negative; exp mlx_exp; log mlx_log; sqrt mlx_sqrt; rsqrt mlx_rsqrt; sin mlx_sin;
        cos mlx_cos; tanh mlx_tanh; erf mlx_erf; not mlx_logical_not; isnan mlx_isnan; square mlx_square;
        sigmoid mlx_sigmoid;
    }

    binary! {
        add mlx_add; sub mlx_subtract; mul mlx_multiply; div mlx_divide; floor_div mlx_floor_divide;
        maximum mlx_maximum; minimum mlx_minimum; bit_and mlx_bitwise_and; bit_or mlx_bitwise_or;
        bit_xor mlx_bitwise_xor; and mlx_logical_and; or mlx_logical_or; shl mlx_left_shift; shr mlx_right_shift;
        eq mlx_equal; ne mlx_not_equal; lt mlx_less; le mlx_less_equal; gt mlx_greater; ge mlx_greater_equal;
        matmul mlx_matmul;
    }

    /// c + a b.
    pub fn addmm(&self, c: &Array, a: &Array, b: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_addmm(out, c.as_ptr(), a.as_ptr(), b.as_ptr(), 1.0, 1.0, s) })
    }

    pub fn select(&self, cond: &Array, a: &Array, b: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_where(out, cond.as_ptr(), a.as_ptr(), b.as_ptr(), s) })
    }

    pub fn cast(&self, a: &Array, to: DType) -> Result<Array, Error> {
        let to = dtype(to)?;
        self.op(|out, s| unsafe { mlx_sys::mlx_astype(out, a.as_ptr(), to, s) })
    }

    pub fn f32(&self, a: &Array) -> Result<Array, Error> {
        self.cast(a, DType::F32)
    }

    pub fn to_u64(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_astype(out, a.as_ptr(), U64, s) })
    }

    pub fn to_i32(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_astype(out, a.as_ptr(), I32, s) })
    }

    /// 0, 1, ... as `u32` or `f32`.
    pub fn count(&self, to: usize, ty: DType) -> Result<Array, Error> {
        let ty = dtype(ty)?;
        self.op(|out, s| unsafe { mlx_sys::mlx_arange(out, 0.0, to as f64, 1.0, ty, s) })
    }

    pub fn zeros(&self, shape: &[usize], ty: DType) -> Result<Array, Error> {
        let (shape, ty) = (ints(shape)?, dtype(ty)?);
        self.op(|out, s| unsafe { mlx_sys::mlx_zeros(out, shape.as_ptr(), shape.len(), ty, s) })
    }

    pub fn reshape(&self, a: &Array, shape: &[usize]) -> Result<Array, Error> {
        let shape = ints(shape)?;
        self.op(|out, s| unsafe { mlx_sys::mlx_reshape(out, a.as_ptr(), shape.as_ptr(), shape.len(), s) })
    }

    pub fn permute(&self, a: &Array, perm: &[usize]) -> Result<Array, Error> {
        let perm = ints(perm)?;
        self.op(|out, s| unsafe {
            mlx_sys::mlx_transpose_axes(out, a.as_ptr(), perm.as_ptr(), perm.len(), s)
        })
    }

    /// The last two dimensions exchanged.
    pub fn transpose(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_swapaxes(out, a.as_ptr(), -1, -2, s) })
    }

    pub fn broadcast(&self, a: &Array, shape: &[usize]) -> Result<Array, Error> {
        let shape = ints(shape)?;
        self.op(|out, s| unsafe {
            mlx_sys::mlx_broadcast_to(out, a.as_ptr(), shape.as_ptr(), shape.len(), s)
        })
    }

    pub fn slice(&self, a: &Array, start: &[usize], size: &[usize]) -> Result<Array, Error> {
        let stop: Vec<usize> = start.iter().zip(size).map(|(start, size)| start + size).collect();
        let (start, stop, ones) = (ints(start)?, ints(&stop)?, vec![1; start.len()]);
        self.op(|out, s| unsafe {
            let (n, a) = (start.len(), a.as_ptr());
            mlx_sys::mlx_slice(out, a, start.as_ptr(), n, stop.as_ptr(), n, ones.as_ptr(), n, s)
        })
    }

    pub fn pad(&self, a: &Array, low: &[usize], high: &[usize], value: &Array) -> Result<Array, Error> {
        let axes = ints(&(0..low.len()).collect::<Vec<_>>())?;
        let (low, high) = (ints(low)?, ints(high)?);
        self.op(|out, s| unsafe {
            let (n, a, low, high) = (axes.len(), a.as_ptr(), low.as_ptr(), high.as_ptr());
            mlx_sys::mlx_pad(
                out,
                a,
                axes.as_ptr(),
                n,
                low,
                n,
                high,
                n,
                value.as_ptr(),
                c"constant".as_ptr(),
                s,
            )
        })
    }

    pub fn concat(&self, arrays: &[&Array], axis: usize) -> Result<Array, Error> {
        let vector = Vector::new(arrays);
        self.op(|out, s| unsafe { mlx_sys::mlx_concatenate_axis(out, vector.0, axis as c_int, s) })
    }

    pub fn sum(&self, a: &Array, axes: &[usize]) -> Result<Array, Error> {
        let axes = ints(axes)?;
        self.op(|out, s| unsafe {
            mlx_sys::mlx_sum_axes(out, a.as_ptr(), axes.as_ptr(), axes.len(), true, s)
        })
    }

    pub fn max(&self, a: &Array, axes: &[usize]) -> Result<Array, Error> {
        let axes = ints(axes)?;
        self.op(|out, s| unsafe {
            mlx_sys::mlx_max_axes(out, a.as_ptr(), axes.as_ptr(), axes.len(), true, s)
        })
    }

    pub fn sum_all(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_sum(out, a.as_ptr(), false, s) })
    }

    /// Over the last dimension, in f32 within.
    pub fn softmax(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_softmax_axis(out, a.as_ptr(), -1, true, s) })
    }

    /// Over the last dimension, which stays as one of 1.
    pub fn logsumexp(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_logsumexp_axis(out, a.as_ptr(), -1, true, s) })
    }

    /// Rows of `table`; `indices` are in range.
    pub fn take(&self, table: &Array, indices: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_take_axis(out, table.as_ptr(), indices.as_ptr(), 0, s) })
    }

    /// Along the last dimension.
    pub fn take_along(&self, a: &Array, indices: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_take_along_axis(out, a.as_ptr(), indices.as_ptr(), -1, s) })
    }

    /// `updates` [S, 1, R..] added to rows of `base` at `indices`.
    pub fn scatter_add(&self, base: &Array, indices: &Array, updates: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe {
            mlx_sys::mlx_scatter_add_single(out, base.as_ptr(), indices.as_ptr(), updates.as_ptr(), 0, s)
        })
    }

    /// The block of that shape from `start`, i32`[1]`, on along `axis`.
    pub fn slice_at(&self, a: &Array, start: &Array, axis: usize, size: &[usize]) -> Result<Array, Error> {
        let (axes, size) = (ints(&[axis])?, ints(size)?);
        self.op(|out, s| unsafe {
            let (a, start, n) = (a.as_ptr(), start.as_ptr(), size.len());
            mlx_sys::mlx_slice_dynamic(out, a, start, axes.as_ptr(), 1, size.as_ptr(), n, s)
        })
    }

    pub fn update_at(&self, a: &Array, update: &Array, start: &Array, axis: usize) -> Result<Array, Error> {
        let axes = ints(&[axis])?;
        self.op(|out, s| unsafe {
            let (a, update, start) = (a.as_ptr(), update.as_ptr(), start.as_ptr());
            mlx_sys::mlx_slice_update_dynamic(out, a, update, start, axes.as_ptr(), 1, s)
        })
    }

    /// `a`, to be computed after `before`.
    pub fn after(&self, a: &Array, before: &Array) -> Result<Array, Error> {
        let (inputs, dependencies, mut outputs) =
            (Vector::new(&[a]), Vector::new(&[before]), Vector::empty());
        // SAFETY: live lists.
        check(unsafe { mlx_sys::mlx_depends(&mut outputs.0, inputs.0, dependencies.0) })?;
        outputs.arrays()?.pop().ok_or_else(|| Error::internal("MLX gave no array"))
    }

    pub fn copy(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_copy(out, a.as_ptr(), s) })
    }

    pub fn contiguous(&self, a: &Array) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_contiguous(out, a.as_ptr(), false, s) })
    }

    pub fn rms_norm(&self, x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Error> {
        self.op(|out, s| unsafe { mlx_sys::mlx_fast_rms_norm(out, x.as_ptr(), optional(weight), eps, s) })
    }

    pub fn layer_norm(
        &self,
        x: &Array,
        weight: Option<&Array>,
        bias: Option<&Array>,
        eps: f32,
    ) -> Result<Array, Error> {
        self.op(|out, s| unsafe {
            mlx_sys::mlx_fast_layer_norm(out, x.as_ptr(), optional(weight), optional(bias), eps, s)
        })
    }

    /// q [B, H, T, D], k [B, G, S, D], v [B, G, S, E]; causal where there is no mask.
    pub fn attention(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        scale: f32,
        mask: Option<&Array>,
    ) -> Result<Array, Error> {
        let mode = if mask.is_some() { c"array" } else { c"causal" };
        self.op(|out, s| unsafe {
            let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
            let mask = optional(mask);
            mlx_sys::mlx_fast_scaled_dot_product_attention(
                out,
                q,
                k,
                v,
                scale,
                mode.as_ptr(),
                mask,
                none(),
                false,
                s,
            )
        })
    }

    pub fn quantized_matmul(
        &self,
        x: &Array,
        [packed, scales, biases]: [&Array; 3],
        transpose: bool,
        group: usize,
        bits: usize,
    ) -> Result<Array, Error> {
        let some = |value: usize| mlx_sys::mlx_optional_int { value: value as c_int, has_value: true };
        self.op(|out, s| unsafe {
            let (x, packed, scales, biases) = (x.as_ptr(), packed.as_ptr(), scales.as_ptr(), biases.as_ptr());
            let (group, bits, mode) = (some(group), some(bits), c"affine".as_ptr());
            mlx_sys::mlx_quantized_matmul(out, x, packed, scales, biases, transpose, group, bits, mode, s)
        })
    }
}

/// Whether a device is there, asked before it is touched.
pub fn is_available(gpu: bool, index: i32) -> bool {
    let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
    let mut available = false;
    // SAFETY: a handle that is made, asked about and freed.
    unsafe {
        let device = mlx_sys::mlx_device_new_type(kind, index);
        let status = mlx_sys::mlx_device_is_available(&mut available, device);
        mlx_sys::mlx_device_free(device);
        available && status == 0
    }
}

/// How many there are of a kind.
pub fn device_count(gpu: bool) -> i32 {
    let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
    let mut count = 0;
    // SAFETY: writes one number.
    let status = unsafe { mlx_sys::mlx_device_count(&mut count, kind) };
    if status == 0 { count } else { 0 }
}

/// What MLX knows of a device.
pub struct DeviceInfo(mlx_sys::mlx_device_info);

impl DeviceInfo {
    pub fn of(gpu: bool, index: i32) -> Result<DeviceInfo, Error> {
        let kind = if gpu { mlx_sys::mlx_device_type__MLX_GPU } else { mlx_sys::mlx_device_type__MLX_CPU };
        // SAFETY: handles that are made here; the info is owned by the result, the device freed.
        unsafe {
            let mut info = DeviceInfo(mlx_sys::mlx_device_info_new());
            let device = mlx_sys::mlx_device_new_type(kind, index);
            let status = mlx_sys::mlx_device_info_get(&mut info.0, device);
            mlx_sys::mlx_device_free(device);
            check(status)?;
            Ok(info)
        }
    }

    fn has(&self, key: &CStr) -> bool {
        let mut has = false;
        // SAFETY: a live handle.
        unsafe { mlx_sys::mlx_device_info_has_key(&mut has, self.0, key.as_ptr()) == 0 && has }
    }

    pub fn text(&self, key: &CStr) -> Option<String> {
        let (mut is_text, mut value) = (false, std::ptr::null());
        // SAFETY: a live handle; the string lives as long as it and is copied.
        unsafe {
            if !self.has(key)
                || mlx_sys::mlx_device_info_is_string(&mut is_text, self.0, key.as_ptr()) != 0
                || !is_text
            {
                return None;
            }
            check(mlx_sys::mlx_device_info_get_string(&mut value, self.0, key.as_ptr())).ok()?;
            (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        }
    }

    pub fn size(&self, key: &CStr) -> Option<u64> {
        let (mut is_text, mut value) = (true, 0);
        // SAFETY: a live handle.
        unsafe {
            if !self.has(key)
                || mlx_sys::mlx_device_info_is_string(&mut is_text, self.0, key.as_ptr()) != 0
                || is_text
            {
                return None;
            }
            check(mlx_sys::mlx_device_info_get_size(&mut value, self.0, key.as_ptr())).ok()?;
        }
        Some(value as u64)
    }
}

impl Drop for DeviceInfo {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { mlx_sys::mlx_device_info_free(self.0) };
    }
}

/// MLX's version.
pub fn version() -> String {
    // SAFETY: a string that is made, filled, copied and freed here.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&mut text);
        let data = mlx_sys::mlx_string_data(text);
        let version = if status != 0 || data.is_null() {
            "unknown".into()
        } else {
            CStr::from_ptr(data).to_string_lossy().into_owned()
        };
        mlx_sys::mlx_string_free(text);
        version
    }
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

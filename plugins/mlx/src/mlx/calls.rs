//! MLX's functions over arrays, on one stream.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::DType;
use mlx_rs::Stream;
use mlx_sys::{mlx_array, mlx_stream};

use super::failure::{check, failure};
use super::*;

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

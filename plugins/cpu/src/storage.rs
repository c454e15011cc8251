//! Bytes and typed views of them.
//!
//! Results may lie where an operand lies (the plan says where), and tasks of one kernel write disjoint parts
//! of one result, so kernels work on raw storage through [`Src`] and [`Dst`]. The rules that make it sound
//! are kept by [`crate::compile`], which alone makes them from a checked program and its plan:
//!
//! - a view lies inside its storage, which outlives the step;
//! - storage that a step writes is read in the same step only through a [`Src`] that is `shared`; such a
//!   [`Src`] never lends slices, it copies;
//! - every kernel writes each element of a [`Dst`] from one task only.

use std::marker::PhantomData;

use finetune_plugin_api::export::{Error, HostBytes};
use finetune_plugin_api::program::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Alignment of all storage of this plugin: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
struct Line([u8; ALIGN]);

/// Owned, aligned, zeroed bytes.
pub struct Bytes {
    lines: Vec<Line>,
    len: usize,
}

impl Bytes {
    /// Zeroed bytes, or an error of the kind "out of memory" that says for what.
    pub fn zeroed(len: usize, what: &str) -> Result<Bytes, Error> {
        let count = len.div_ceil(ALIGN);
        // The zeroing is left to the system, page by page as they are touched.
        match bytemuck::allocation::try_zeroed_slice_box::<Line>(count) {
            Ok(lines) => Ok(Bytes { lines: lines.into_vec(), len }),
            Err(()) => Err(Error::out_of_memory(format!(
                "{what} needs {len} bytes of main memory, which the system does not give; \
                 a smaller micro-batch or sequence length needs less"
            ))),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// The memory of a buffer.
pub enum Memory {
    Owned(Bytes),
    /// Lent by the host: read only.
    Lent(HostBytes),
}

impl Memory {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Memory::Owned(bytes) => bytes.as_slice(),
            Memory::Lent(bytes) => bytes.as_slice(),
        }
    }
}

/// How the elements of a view lie: dimensions that can be walked as one are joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// (length, stride), outermost first; at least one.
    dims: Vec<(usize, usize)>,
}

impl Layout {
    pub fn new(shape: &[usize], strides: &[usize]) -> Layout {
        let mut dims: Vec<(usize, usize)> = Vec::with_capacity(shape.len().max(1));
        for (&length, &stride) in shape.iter().zip(strides) {
            match dims.last_mut() {
                _ if length == 1 => {}
                Some((outer, outer_stride)) if *outer_stride == stride * length => {
                    *outer *= length;
                    *outer_stride = stride;
                }
                _ => dims.push((length, stride)),
            }
        }
        if dims.is_empty() {
            dims.push((1, 1));
        }
        Layout { dims }
    }

    pub fn is_contiguous(&self) -> bool {
        matches!(self.dims[..], [(1, _)] | [(_, 1)])
    }

    /// Calls `run(source, stride, target, count)` for the pieces of `[start, start + count)` in row-major
    /// order: source in elements of the storage, target counted from `start`.
    #[inline]
    fn runs(&self, start: usize, count: usize, mut run: impl FnMut(usize, usize, usize, usize)) {
        let (&(inner, stride), outer) = match self.dims.split_last() {
            Some(split) => split,
            None => return,
        };
        if outer.is_empty() {
            return run(start * stride, stride, 0, count);
        }
        let mut done = 0;
        while done < count {
            let at = start + done;
            let (mut rest, within) = (at / inner, at % inner);
            let mut source = within * stride;
            for &(length, stride) in outer.iter().rev() {
                source += rest % length * stride;
                rest /= length;
            }
            let length = (inner - within).min(count - done);
            run(source, stride, done, length);
            done += length;
        }
    }
}

/// A value to read.
#[derive(Clone)]
pub struct Src<'a> {
    ptr: *const u8,
    /// The type of the elements in storage.
    pub stored: DType,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    layout: Layout,
    shared: bool,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: a `Src` only reads; that nothing writes the same bytes meanwhile is the rule of this module.
#[allow(unsafe_code)]
unsafe impl Send for Src<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Src<'_> {}

#[allow(unsafe_code)]
impl<'a> Src<'a> {
    /// # Safety
    /// `ptr` is aligned for `stored` and every element of the view lies in memory that is initialised and
    /// readable for `'a`. If the step writes any of it, `shared` is set and the rules of the module are kept.
    pub unsafe fn new(
        ptr: *const u8,
        stored: DType,
        shape: &[usize],
        strides: &[usize],
        shared: bool,
    ) -> Src<'a> {
        let layout = Layout::new(shape, strides);
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        Src { ptr, stored, shape, strides, layout, shared, lifetime: PhantomData }
    }

    /// A view of a slice.
    pub fn of_f32(slice: &'a [f32], shape: &[usize], strides: &[usize]) -> Src<'a> {
        let last: usize = shape.iter().zip(strides).map(|(length, stride)| (length - 1) * stride).sum();
        assert!(last < slice.len());
        // SAFETY: the last element of the view lies in the slice, which nothing writes during 'a.
        unsafe { Src::new(slice.as_ptr().cast(), DType::F32, shape, strides, false) }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same elements with their dimensions in another order, or some left out and begun elsewhere:
    /// `start` counts in elements of the storage.
    pub fn view(&self, start: usize, shape: &[usize], strides: &[usize]) -> Src<'a> {
        let reach = |shape: &[usize], strides: &[usize]| -> usize {
            shape.iter().zip(strides).map(|(length, stride)| (length - 1) * stride).sum()
        };
        assert!(start + reach(shape, strides) <= reach(&self.shape, &self.strides));
        // SAFETY: strides are not negative, so that what lies between the first and the last element of a
        // view that was valid is inside the storage.
        unsafe {
            let ptr = self.ptr.add(start * self.stored.size());
            Src::new(ptr, self.stored, shape, strides, self.shared)
        }
    }

    /// The address of the first element, for the matrix product.
    pub fn ptr(&self) -> *const u8 {
        self.ptr
    }

    /// Loads the elements from `start` on, in row-major order, as f32. `u32` and `bool` become their values.
    pub fn load(&self, start: usize, into: &mut [f32]) {
        match self.stored {
            DType::F32 => self.each::<f32, f32>(start, into, |x| x, |from, to| to.copy_from_slice(from)),
            DType::Bf16 => self.each::<bf16, f32>(start, into, bf16::to_f32, bf16_to_f32),
            DType::F16 => {
                self.each::<f16, f32>(start, into, f16::to_f32, |from, to| from.convert_to_f32_slice(to));
            }
            DType::U32 => self.each::<u32, f32>(
                start,
                into,
                |x| x as f32,
                |from, to| {
                    from.iter().zip(to).for_each(|(x, y)| *y = *x as f32);
                },
            ),
            _ => self.each::<u8, f32>(start, into, f32::from, |from, to| {
                from.iter().zip(to).for_each(|(x, y)| *y = f32::from(*x));
            }),
        }
    }

    /// Loads elements of type `u32` or `bool`.
    pub fn load_u32(&self, start: usize, into: &mut [u32]) {
        match self.stored {
            DType::U32 => self.each::<u32, u32>(start, into, |x| x, |from, to| to.copy_from_slice(from)),
            DType::Bool => self.each::<u8, u32>(start, into, u32::from, |from, to| {
                from.iter().zip(to).for_each(|(x, y)| *y = u32::from(*x));
            }),
            other => debug_assert!(false, "{other} is no integer"),
        }
    }

    /// One element of type `u32` or `bool`.
    pub fn at_u32(&self, index: usize) -> u32 {
        let mut one = [0];
        self.load_u32(index, &mut one);
        one[0]
    }

    /// One element as f32.
    pub fn at(&self, index: usize) -> f32 {
        let mut one = [0.0];
        self.load(index, &mut one);
        one[0]
    }

    /// The elements from `start` on: lent if they lie so in storage, else loaded into `scratch`.
    pub fn borrow<'b>(&'b self, start: usize, scratch: &'b mut [f32]) -> &'b [f32] {
        let count = scratch.len();
        if self.stored == DType::F32 && !self.shared && self.layout.is_contiguous() {
            assert!(start + count <= self.elements());
            // SAFETY: the range was checked; nothing writes storage that is not shared.
            return unsafe { std::slice::from_raw_parts(self.ptr.cast::<f32>().add(start), count) };
        }
        self.load(start, scratch);
        scratch
    }

    /// Copies elements without looking at them; `T` has the size of the stored type.
    pub fn load_raw<T: bytemuck::Pod>(&self, start: usize, into: &mut [T]) {
        assert_eq!(size_of::<T>(), self.stored.size());
        self.each::<T, T>(start, into, |x| x, |from, to| to.copy_from_slice(from));
    }

    #[inline(always)]
    fn each<T: Copy, U: Copy>(
        &self,
        start: usize,
        into: &mut [U],
        one: impl Fn(T) -> U,
        many: impl Fn(&[T], &mut [U]),
    ) {
        assert!(start + into.len() <= self.elements());
        let base = self.ptr.cast::<T>();
        self.layout.runs(start, into.len(), |source, stride, target, count| {
            let into = &mut into[target..target + count];
            // SAFETY: `runs` yields positions of elements of the view for a range that was checked; the
            // storage is not written while this task reads it (an overlapping result is written by this
            // task, later).
            unsafe {
                match stride {
                    1 => many(std::slice::from_raw_parts(base.add(source), count), into),
                    0 => into.fill(one(*base.add(source))),
                    _ => {
                        for (i, y) in into.iter_mut().enumerate() {
                            *y = one(*base.add(source + i * stride));
                        }
                    }
                }
            }
        });
    }
}

/// A result to write: contiguous.
#[derive(Clone)]
pub struct Dst<'a> {
    ptr: *mut u8,
    pub dtype: DType,
    pub shape: Vec<usize>,
    elements: usize,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: tasks write disjoint elements: the rule of this module.
#[allow(unsafe_code)]
unsafe impl Send for Dst<'_> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Dst<'_> {}

#[allow(unsafe_code)]
impl<'a> Dst<'a> {
    /// # Safety
    /// `ptr` is aligned for `dtype` and writable for all elements of `shape` during `'a`; what else reads or
    /// writes there keeps the rules of the module.
    pub unsafe fn new(ptr: *mut u8, dtype: DType, shape: &[usize]) -> Dst<'a> {
        let elements = shape.iter().product();
        Dst { ptr, dtype, shape: shape.to_vec(), elements, lifetime: PhantomData }
    }

    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Whether this result lies where that operand lies.
    pub fn is_at(&self, x: &Src) -> bool {
        std::ptr::eq(self.ptr, x.ptr())
    }

    /// Writes f32 values from the element `start` on, rounded to the type of the result.
    pub fn store(&self, start: usize, values: &[f32]) {
        assert!(start + values.len() <= self.elements);
        // SAFETY: the range was checked, and these elements are this task's.
        unsafe {
            match self.dtype {
                DType::F32 => self.slice::<f32>(start, values.len()).copy_from_slice(values),
                DType::Bf16 => f32_to_bf16(values, self.slice(start, values.len())),
                DType::F16 => self.slice::<f16>(start, values.len()).convert_from_f32_slice(values),
                DType::U32 => {
                    let to = self.slice::<u32>(start, values.len());
                    // `as` truncates toward zero, clamps, and takes NaN to 0.
                    to.iter_mut().zip(values).for_each(|(y, x)| *y = *x as u32);
                }
                _ => {
                    let to = self.slice::<u8>(start, values.len());
                    to.iter_mut().zip(values).for_each(|(y, x)| *y = u8::from(*x != 0.0));
                }
            }
        }
    }

    /// Writes whole numbers to a result of type `u32` or `bool`.
    pub fn store_u32(&self, start: usize, values: &[u32]) {
        assert!(start + values.len() <= self.elements);
        // SAFETY: as in `store`.
        unsafe {
            if self.dtype == DType::U32 {
                self.slice::<u32>(start, values.len()).copy_from_slice(values);
            } else {
                let to = self.slice::<u8>(start, values.len());
                to.iter_mut().zip(values).for_each(|(y, x)| *y = u8::from(*x != 0));
            }
        }
    }

    /// Writes elements without looking at them; `T` has the size of the type.
    pub fn store_raw<T: bytemuck::Pod>(&self, start: usize, values: &[T]) {
        assert!(size_of::<T>() == self.dtype.size() && start + values.len() <= self.elements);
        // SAFETY: as in `store`.
        unsafe { self.slice::<T>(start, values.len()).copy_from_slice(values) }
    }

    /// Elements to write, of an f32 result that no operand overlaps. Each element is lent to one task.
    #[allow(clippy::mut_from_ref)]
    pub fn lend_f32(&self, start: usize, count: usize) -> &'a mut [f32] {
        assert!(self.dtype == DType::F32 && start + count <= self.elements);
        // SAFETY: as in `store`.
        unsafe { self.slice(start, count) }
    }

    #[allow(clippy::mut_from_ref)]
    unsafe fn slice<T>(&self, start: usize, count: usize) -> &'a mut [T] {
        // SAFETY: the callers have checked the range and the type's size.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast::<T>().add(start), count) }
    }

    /// What was written so far, to read.
    pub fn as_src(&self) -> Src<'a> {
        let mut strides = vec![1; self.shape.len()];
        for d in (1..self.shape.len()).rev() {
            strides[d - 1] = strides[d] * self.shape[d];
        }
        // SAFETY: the same storage; `shared` because it is written in this step.
        unsafe { Src::new(self.ptr, self.dtype, &self.shape, &strides, true) }
    }
}

fn bf16_to_f32(from: &[bf16], to: &mut [f32]) {
    from.iter().zip(to).for_each(|(x, y)| *y = f32::from_bits(u32::from(x.to_bits()) << 16));
}

/// Rounds to nearest even; a NaN stays one.
fn f32_to_bf16(from: &[f32], to: &mut [bf16]) {
    for (x, y) in from.iter().zip(to) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        *y = bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16);
    }
}

/// Rounds f32 values in place to what the type can hold.
pub fn round_to(dtype: DType, values: &mut [f32]) {
    match dtype {
        DType::Bf16 => values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        DType::F16 => values.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        _ => {}
    }
}

/// A number rounded once to a float type, as f32.
pub fn rounded(dtype: DType, value: f64) -> f32 {
    match dtype {
        DType::Bf16 => bf16::from_f64(value).to_f32(),
        DType::F16 => f16::from_f64(value).to_f32(),
        _ => value as f32,
    }
}

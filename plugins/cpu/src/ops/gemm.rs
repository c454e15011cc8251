//! Matrix products in f32 of operands of any float type and strides: operands that are not f32 are converted
//! tile by tile, never whole.

use finetune_plugin_api::plan::Term;
use finetune_plugin_api::program::DType;
use gemm::Parallelism;
use rayon::prelude::*;

use super::quant::Quantized;
use super::thin;
use crate::storage::{Dst, Src};

/// The largest tiles of a converted operand or result: rows of a, columns of b, and the summed dimension.
const TILE_M: usize = 512;
pub const TILE_N: usize = 1024;
pub const TILE_K: usize = 2048;
/// Products below this many multiplications are not worth several threads.
const SERIAL: usize = 64 * 64 * 64;

/// Scratch memory of a product whose operands have these numbers.
pub fn workspace(a: usize, b: usize) -> Vec<Term> {
    let tile = |operand, most| Term {
        bytes: 4,
        dims: vec![(operand, -1), (operand, -2)],
        most: 4 * most,
        half: Some(operand),
        ..Term::default()
    };
    // A result that is not f32 is made of operands that are not either.
    let result = Term { bytes: 4 * TILE_M * TILE_N, half: Some(a), ..Term::default() };
    vec![tile(a, TILE_M * TILE_K), tile(b, TILE_N * TILE_K), result]
}

/// An operand of two dimensions.
#[derive(Clone)]
pub enum Matrix<'a> {
    Plain(Src<'a>),
    Quantized(Box<Quantized<'a>>),
}

/// Address and strides of an f32 matrix.
#[derive(Clone, Copy)]
struct Raw {
    ptr: *const f32,
    rows: isize,
    columns: isize,
}

impl Matrix<'_> {
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Matrix::Plain(x) => [x.shape[0], x.shape[1]],
            Matrix::Quantized(x) => x.shape(),
        }
    }

    fn raw(&self) -> Option<Raw> {
        match self {
            Matrix::Plain(x) if x.stored == DType::F32 => {
                Some(Raw { ptr: x.ptr().cast(), rows: x.strides[0] as isize, columns: x.strides[1] as isize })
            }
            _ => None,
        }
    }

    /// Converts a tile; returns the strides of the rows and columns it was given.
    fn tile(&self, at: [usize; 2], size: [usize; 2], into: &mut [f32]) -> (isize, isize) {
        let into = &mut into[..size[0] * size[1]];
        let x = match self {
            Matrix::Quantized(x) => return x.tile(at, size, into),
            Matrix::Plain(x) => x,
        };
        let start = at[0] * x.strides[0] + at[1] * x.strides[1];
        // Read along the dimension that is contiguous.
        let (tile, length, strides) = match x.strides[0] == 1 && x.strides[1] != 1 {
            false => (x.view(start, &size, &x.strides), size[1], (size[1] as isize, 1)),
            true => (x.view(start, &[size[1], size[0]], &[x.strides[1], 1]), size[0], (1, size[0] as isize)),
        };
        let group = (4096 / length).max(1);
        into.par_chunks_mut(group * length)
            .enumerate()
            .for_each(|(i, rows)| tile.load(i * group * length, rows));
        strides
    }
}

/// Where a product goes.
pub struct Target<'a> {
    pub dst: &'a Dst<'a>,
    /// First element in `dst`; the rows follow one another, contiguous.
    pub start: usize,
}

/// target [M, N] = a [M, K] b [K, N], rounded once.
pub fn multiply(target: &Target, a: &Matrix, b: &Matrix, work: &mut [f32], threads: bool) {
    let ([m, k], [_, n]) = (a.shape(), b.shape());
    if let (true, Matrix::Plain(a), Matrix::Plain(b)) = (m <= thin::ROWS, a, b)
        && thin::multiply(target, a, b, threads)
    {
        return;
    }
    if target.dst.dtype == DType::F32 {
        let out = target.dst.lend_f32(target.start, m * n);
        return accumulate(out, n, a, b, false, work, threads);
    }
    let (tile, work) = work.split_at_mut(TILE_M.min(m) * TILE_N.min(n));
    for i in (0..m).step_by(TILE_M) {
        let rows = TILE_M.min(m - i);
        for j in (0..n).step_by(TILE_N) {
            let columns = TILE_N.min(n - j);
            let tile = &mut tile[..rows * columns];
            let (a, b) = (a.part([i, 0], [rows, k]), b.part([0, j], [k, columns]));
            accumulate(tile, columns, &a, &b, false, work, threads);
            for row in 0..rows {
                let values = &tile[row * columns..(row + 1) * columns];
                target.dst.store(target.start + (i + row) * n + j, values);
            }
        }
    }
}

impl<'a> Matrix<'a> {
    /// A block of it.
    pub fn part(&self, at: [usize; 2], size: [usize; 2]) -> Matrix<'a> {
        match self {
            Matrix::Plain(x) => {
                Matrix::Plain(x.view(at[0] * x.strides[0] + at[1] * x.strides[1], &size, &x.strides))
            }
            Matrix::Quantized(x) => Matrix::Quantized(Box::new(x.part(at, size))),
        }
    }

    pub fn transposed(&self) -> Matrix<'a> {
        match self {
            Matrix::Plain(x) => {
                Matrix::Plain(x.view(0, &[x.shape[1], x.shape[0]], &[x.strides[1], x.strides[0]]))
            }
            Matrix::Quantized(x) => Matrix::Quantized(Box::new(x.transposed())),
        }
    }
}

/// out [M, N] (rows `stride` apart) = a b, or += a b with `add`.
pub fn accumulate(
    out: &mut [f32],
    stride: usize,
    a: &Matrix,
    b: &Matrix,
    add: bool,
    work: &mut [f32],
    threads: bool,
) {
    let ([m, k], [inner, n]) = (a.shape(), b.shape());
    assert!(k == inner && n <= stride && out.len() >= (m - 1) * stride + n);
    let out = (out.as_mut_ptr(), stride as isize);
    if let (Some(a), Some(b)) = (a.raw(), b.raw()) {
        return product(out, [m, n, k], a, b, add, threads);
    }
    let tile_m = if a.raw().is_some() { m } else { TILE_M.min(m) };
    let tile_n = if b.raw().is_some() { n } else { TILE_N.min(n) };
    let [width_a, width_b] =
        [(a, tile_m), (b, tile_n)].map(|(x, width)| if x.raw().is_some() { 0 } else { width });
    let tile_k = TILE_K.min(k).min(work.len() / (width_a + width_b));
    let size_of_a = width_a * tile_k;
    let (work_a, work_b) = work.split_at_mut(size_of_a);
    for j in (0..n).step_by(tile_n) {
        let columns = tile_n.min(n - j);
        for p in (0..k).step_by(tile_k) {
            let depth = tile_k.min(k - p);
            let right = tile_of(b, [p, j], [depth, columns], work_b);
            for i in (0..m).step_by(tile_m) {
                let rows = tile_m.min(m - i);
                let left = tile_of(a, [i, p], [rows, depth], work_a);
                let to = out.0.wrapping_offset(i as isize * out.1 + j as isize);
                product((to, out.1), [rows, columns, depth], left, right, add || p > 0, threads);
            }
        }
    }
}

fn tile_of(x: &Matrix, at: [usize; 2], size: [usize; 2], work: &mut [f32]) -> Raw {
    match x.raw() {
        Some(raw) => {
            let skip = at[0] as isize * raw.rows + at[1] as isize * raw.columns;
            Raw { ptr: raw.ptr.wrapping_offset(skip), ..raw }
        }
        None => {
            let (rows, columns) = x.tile(at, size, work);
            Raw { ptr: work.as_ptr(), rows, columns }
        }
    }
}

#[allow(unsafe_code)]
fn product(
    (out, stride): (*mut f32, isize),
    [m, n, k]: [usize; 3],
    a: Raw,
    b: Raw,
    add: bool,
    threads: bool,
) {
    let parallelism = match threads && m * n * k > SERIAL {
        true => Parallelism::Rayon(rayon::current_num_threads()),
        false => Parallelism::None,
    };
    // SAFETY: `accumulate` checked that [m, n] with that stride lies in the slice that is lent to it, and a
    // and b are views of m x k and k x n elements; the result overlaps neither, since a product is never
    // planned in place.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride,
            add,
            a.ptr,
            a.columns,
            a.rows,
            b.ptr,
            b.columns,
            b.rows,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A small product of f32 slices on this thread: out [M, N] (rows `stride` apart) = or += alpha a b, with
/// (slice, stride of rows, stride of columns) of a and b.
#[allow(unsafe_code)]
pub fn small(
    (out, stride): (&mut [f32], usize),
    [m, n, k]: [usize; 3],
    a: (&[f32], usize, usize),
    b: (&[f32], usize, usize),
    alpha: f32,
    add: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!((m - 1) * stride + n <= out.len());
    assert!((m - 1) * a.1 + (k - 1) * a.2 < a.0.len() && (k - 1) * b.1 + (n - 1) * b.2 < b.0.len());
    // SAFETY: the last element of each matrix was just checked to lie in its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

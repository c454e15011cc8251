//! Matrix products for MLX on the processor, on Linux.
//!
//! There MLX calls a BLAS, and the one that comes with it is the reference implementation: one thread, no
//! blocking. This library exports the two products that matter under the names of the C interface to BLAS. Where
//! it is loaded, it comes before the BLAS in the order in which the system looks for what MLX calls, so MLX gets
//! these. All else (complex products, LAPACK) stays with the libraries that came with MLX.

use std::error::Error;
use std::ffi::c_int;
use std::sync::OnceLock;

use gemm::Parallelism;

const ROW_MAJOR: c_int = 101;
const COLUMN_MAJOR: c_int = 102;
const AS_IT_IS: c_int = 111;
const TRANSPOSED: c_int = 112;
/// The same as transposed for real numbers.
const CONJUGATE_TRANSPOSED: c_int = 113;

/// Products below this many multiplications are not worth several threads.
const SERIAL: usize = 64 * 64 * 64;

/// Distances between rows and between columns.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Strides {
    rows: isize,
    columns: isize,
}

impl Strides {
    fn of(order: c_int, transposed: c_int, leading: c_int) -> Option<Strides> {
        let leading = isize::try_from(leading).ok()?;
        let by_rows = Strides { rows: leading, columns: 1 };
        let by_columns = Strides { rows: 1, columns: leading };
        match (order, transposed) {
            (ROW_MAJOR, AS_IT_IS) | (COLUMN_MAJOR, TRANSPOSED | CONJUGATE_TRANSPOSED) => Some(by_rows),
            (COLUMN_MAJOR, AS_IT_IS) | (ROW_MAJOR, TRANSPOSED | CONJUGATE_TRANSPOSED) => Some(by_columns),
            _ => None,
        }
    }
}

/// Starts the threads. Whether there are any: where the system gives none, everything is done on the caller's; to ask
/// for them only when they are needed would be a panic in a function of C.
pub fn begin() -> bool {
    static STARTED: OnceLock<bool> = OnceLock::new();
    *STARTED.get_or_init(|| {
        // With no cause below it, the error is that they were started before.
        rayon::ThreadPoolBuilder::new()
            .build_global()
            .map_or_else(|error| error.source().is_none(), |()| true)
    })
}

/// A call, understood: sizes m, n, k and the strides of a, b, c.
struct Call {
    m: usize,
    n: usize,
    k: usize,
    a: Strides,
    b: Strides,
    c: Strides,
}

impl Call {
    fn new(
        order: c_int,
        [transposed_a, transposed_b]: [c_int; 2],
        [m, n, k]: [c_int; 3],
        [leading_a, leading_b, leading_c]: [c_int; 3],
    ) -> Option<Call> {
        let size = |size: c_int| usize::try_from(size).ok();
        Some(Call {
            m: size(m)?,
            n: size(n)?,
            k: size(k)?,
            a: Strides::of(order, transposed_a, leading_a)?,
            b: Strides::of(order, transposed_b, leading_b)?,
            c: Strides::of(order, AS_IT_IS, leading_c)?,
        })
    }

    fn parallelism(&self) -> Parallelism {
        match self.m.saturating_mul(self.n).saturating_mul(self.k) > SERIAL && begin() {
            true => Parallelism::Rayon(0), // as many as there are
            false => Parallelism::None,
        }
    }
}

macro_rules! product {
    ($name:ident, $real:ty) => {
        /// c = alpha a b + beta c, as the C interface to BLAS has it.
        ///
        /// # Safety
        /// The pointers lead to matrices of the sizes, order and leading dimensions given; c is written by
        /// nobody else and overlaps neither a nor b.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            order: c_int,
            transposed_a: c_int,
            transposed_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $real,
            a: *const $real,
            leading_a: c_int,
            b: *const $real,
            leading_b: c_int,
            beta: $real,
            c: *mut $real,
            leading_c: c_int,
        ) {
            let transposed = [transposed_a, transposed_b];
            let Some(call) = Call::new(order, transposed, [m, n, k], [leading_a, leading_b, leading_c])
            else {
                // The reference implementation ends the process here, which a plugin may not do.
                let name = stringify!($name);
                eprintln!(
                    "{name}: called with order {order}, transpositions {transposed:?}, sizes {m} {n} {k}"
                );
                return;
            };
            if call.m == 0 || call.n == 0 {
                return;
            }
            // SAFETY: as the caller promises. With beta 0, c is not read: it may be uninitialized.
            unsafe {
                gemm::gemm(
                    call.m,
                    call.n,
                    call.k,
                    c,
                    call.c.columns,
                    call.c.rows,
                    beta != 0.0,
                    a,
                    call.a.columns,
                    call.a.rows,
                    b,
                    call.b.columns,
                    call.b.rows,
                    beta,
                    alpha,
                    false,
                    false,
                    false,
                    call.parallelism(),
                );
            }
        }
    };
}

product!(cblas_sgemm, f32);
product!(cblas_dgemm, f64);

#[cfg(test)]
mod tests {
    use super::*;

    /// Element (i, j) of a matrix in memory.
    fn at(order: c_int, transposed: c_int, leading: usize, i: usize, j: usize) -> usize {
        match (order == ROW_MAJOR) == (transposed == AS_IT_IS) {
            true => i * leading + j,
            false => j * leading + i,
        }
    }

    /// Small integers, so that every sum is exact in any order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 17) as f32 - 8.0).collect()
    }

    #[derive(Clone, Copy, Debug)]
    struct Case {
        order: c_int,
        transposed: [c_int; 2],
        sizes: [usize; 3],
        padding: usize,
        alpha: f32,
        beta: f32,
    }

    /// Leading dimension of a matrix of these rows and columns before its transposition.
    fn leading(case: &Case, transposed: c_int, rows: usize, columns: usize) -> usize {
        let by_rows = (case.order == ROW_MAJOR) == (transposed == AS_IT_IS);
        (if by_rows { columns } else { rows }) + case.padding
    }

    #[allow(unsafe_code)]
    fn check(case: Case) {
        let Case { order, transposed: [ta, tb], sizes: [m, n, k], alpha, beta, .. } = case;
        let [la, lb, lc] =
            [leading(&case, ta, m, k), leading(&case, tb, k, n), leading(&case, AS_IT_IS, m, n)];
        let long = |leading: usize| leading * m.max(n).max(k);
        let (a, b) = (numbers(long(la), 1), numbers(long(lb), 2));
        let before = match beta == 0.0 {
            // What was there must not matter then.
            true => vec![f32::NAN; long(lc)],
            false => numbers(long(lc), 3),
        };
        let mut expected = before.clone();
        for i in 0..m {
            for j in 0..n {
                let sum: f32 = (0..k).map(|p| a[at(order, ta, la, i, p)] * b[at(order, tb, lb, p, j)]).sum();
                let place = at(order, AS_IT_IS, lc, i, j);
                let kept = if beta == 0.0 { 0.0 } else { beta * before[place] };
                expected[place] = alpha * sum + kept;
            }
        }
        let mut c = before;
        let int = |size: usize| c_int::try_from(size).unwrap();
        // SAFETY: every matrix is long enough for any of the sizes with its leading dimension.
        unsafe {
            cblas_sgemm(
                order,
                ta,
                tb,
                int(m),
                int(n),
                int(k),
                alpha,
                a.as_ptr(),
                int(la),
                b.as_ptr(),
                int(lb),
                beta,
                c.as_mut_ptr(),
                int(lc),
            );
        }
        let same = c.iter().zip(&expected).all(|(x, y)| x == y || (x.is_nan() && y.is_nan()));
        assert!(same, "{case:?}\n  got      {c:?}\n  expected {expected:?}");
    }

    /// A wrong stride gives numbers that look like a product; padding between rows must stay as it was.
    #[test]
    fn every_order_transposition_and_scale_agrees_with_the_definition() {
        let sizes = [[1, 1, 1], [3, 4, 5], [1, 7, 9], [8, 1, 3], [5, 6, 1], [17, 33, 9], [2, 3, 0]];
        let scales = [(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (0.0, 1.0), (0.0, 0.0)];
        for order in [ROW_MAJOR, COLUMN_MAJOR] {
            for ta in [AS_IT_IS, TRANSPOSED, CONJUGATE_TRANSPOSED] {
                for tb in [AS_IT_IS, TRANSPOSED] {
                    for (sizes, padding) in sizes.into_iter().flat_map(|sizes| [(sizes, 0), (sizes, 3)]) {
                        for (alpha, beta) in scales {
                            check(Case { order, transposed: [ta, tb], sizes, padding, alpha, beta });
                        }
                    }
                }
            }
        }
    }

    /// Above the size from which several threads share the work.
    #[test]
    fn a_product_in_several_threads_agrees_with_the_definition() {
        let sizes = [129, 96, 70];
        for transposed in [[AS_IT_IS, TRANSPOSED], [TRANSPOSED, AS_IT_IS]] {
            check(Case { order: ROW_MAJOR, transposed, sizes, padding: 1, alpha: 1.0, beta: 1.0 });
        }
    }

    /// The process goes on, and c stays as it was.
    #[test]
    #[allow(unsafe_code)]
    fn nonsense_is_refused() {
        let mut c = [5.0f64];
        for (order, m) in [(7, 1), (ROW_MAJOR, -1)] {
            let (a, b) = ([1.0], [1.0]);
            // SAFETY: one element each.
            unsafe {
                let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                cblas_dgemm(order, AS_IT_IS, AS_IT_IS, m, 1, 1, 1.0, a, 1, b, 1, 0.0, c, 1);
            }
        }
        assert_eq!(c, [5.0]);
    }
}

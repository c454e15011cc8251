//! Matrix products on a GPU, straight into memory that is there.

use candle_core::{DType as CandleType, Result, Tensor};

/// A matrix in a tensor's memory, or several, `step` elements apart.
#[derive(Clone, Copy)]
#[allow(dead_code)] // read by a GPU's part alone
pub struct Matrix<'a> {
    pub tensor: &'a Tensor,
    /// The type of its elements, where a kernel has left others than the tensor's.
    pub dtype: CandleType,
    /// Its first element, counted from the tensor's first.
    pub first: usize,
    /// Elements from row to row as it lies in memory.
    pub row: usize,
    pub step: usize,
    /// Whether it lies in memory transposed.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix that fills the tensor from its first element on, in rows of that many elements.
    pub fn rows(tensor: &'a Tensor, row: usize) -> Matrix<'a> {
        Matrix { tensor, dtype: tensor.dtype(), first: 0, row, step: 0, transposed: false }
    }

    pub fn of(self, dtype: CandleType) -> Matrix<'a> {
        Matrix { dtype, ..self }
    }

    pub fn transposed(self) -> Matrix<'a> {
        Matrix { transposed: !self.transposed, ..self }
    }

    pub fn from(self, first: usize) -> Matrix<'a> {
        Matrix { first, ..self }
    }

    pub fn step(self, step: usize) -> Matrix<'a> {
        Matrix { step, ..self }
    }
}

/// c = alpha a b + beta c, `count` times. a and b are of one type, c of that or of f32; accumulated in f32.
#[allow(dead_code)] // read by a GPU's part alone
pub struct Product<'a> {
    /// [m, k]
    pub a: Matrix<'a>,
    /// [k, n]
    pub b: Matrix<'a>,
    /// [m, n], not transposed.
    pub c: Matrix<'a>,
    /// m, n, k.
    pub size: [usize; 3],
    pub count: usize,
    pub alpha: f64,
    pub beta: f64,
}

/// The type of what lies between two products of an op, whose operands are of that type. By the language it is f32,
/// which own products take with a 16-bit type; cuBLAS takes equal types only.
pub fn between(dtype: CandleType) -> CandleType {
    #[cfg(all(test, target_os = "linux"))]
    if super::emulated::is_narrow() {
        return dtype;
    }
    if cfg!(feature = "cuda") { dtype } else { CandleType::F32 }
}

/// Whether the operands of a small op with two products are made f32 first: where what lies between them is not.
pub fn is_widened(dtype: CandleType) -> bool {
    #[cfg(all(test, target_os = "linux"))]
    if super::emulated::is_on() {
        return false;
    }
    between(dtype) != CandleType::F32
}

impl Product<'_> {
    pub fn run(&self) -> Result<()> {
        #[cfg(all(test, target_os = "linux"))]
        if super::emulated::is_on() {
            return self.run_own();
        }
        #[cfg(feature = "cuda")]
        return blas::run(self);
        #[cfg(feature = "metal")]
        return if super::metal::product(self)? { Ok(()) } else { self.run_own() };
        #[cfg(not(any(feature = "cuda", feature = "metal")))]
        candle_core::bail!("products into memory are for a GPU, and this is built for the processor")
    }

    /// Through `source/product.h`.
    #[cfg(any(feature = "metal", test))]
    fn run_own(&self) -> Result<()> {
        /// `PRODUCT_TILE` and `PRODUCT_THREADS` in the source.
        const TILE: usize = 64;
        const THREADS: usize = 256;
        let Product { a, b, c, size: [m, n, k], count, alpha, beta } = self;
        let lies = |x: &Matrix| [x.first, x.row, x.step];
        let transposed = usize::from(a.transposed) + 2 * usize::from(b.transposed);
        let whole =
            [[*m, *n, *k].as_slice(), &[*count], &lies(a), &lies(b), &lies(c), &[transposed]].concat();
        let [of_a, of_b, of_c] = [super::suffix(a.dtype)?, super::suffix(b.dtype)?, super::suffix(c.dtype)?];
        let name = format!("product_{of_a}_{of_b}_{of_c}");
        let blocks = count * m.div_ceil(TILE) * n.div_ceil(TILE);
        let numbers = super::Numbers::new(&whole, &[*alpha, *beta]);
        super::launch(&name, &[a.tensor, b.tensor, c.tensor], numbers, blocks, THREADS)
    }
}

#[cfg(feature = "cuda")]
mod blas {
    //! cuBLAS has matrices in columns: what it takes for b^T a^T = c^T is a b = c in rows.

    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::cublas::{result, sys};
    use candle_core::{DType as CandleType, Result};

    use super::super::cuda::address;
    use super::{Matrix, Product};

    fn number(size: usize) -> Result<i32> {
        i32::try_from(size).map_err(|_| candle_core::Error::Msg(format!("cuBLAS takes no size of {size}")))
    }

    fn type_of(dtype: CandleType) -> Result<sys::cudaDataType_t> {
        Ok(match dtype {
            CandleType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            CandleType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            CandleType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            other => candle_core::bail!("there are no products of {other:?}"),
        })
    }

    fn begin(matrix: &Matrix) -> Result<u64> {
        Ok(address(matrix.tensor)? + (matrix.first * matrix.dtype.size_in_bytes()) as u64)
    }

    fn operation(matrix: &Matrix) -> sys::cublasOperation_t {
        match matrix.transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        }
    }

    /// f32 is f32: the mode that cuBLAS is in by default, with this type to compute in, shortens no operand.
    const COMPUTE: sys::cublasComputeType_t = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
    const ALGORITHM: sys::cublasGemmAlgo_t = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;

    #[allow(unsafe_code)]
    pub fn run(product: &Product) -> Result<()> {
        let Product { a, b, c, size: [m, n, k], count, .. } = product;
        let blas = c.tensor.device().as_cuda_device()?.cublas_handle();
        let (alpha, beta) = (product.alpha as f32, product.beta as f32);
        let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
        let [m, n, k, count] = [number(*m)?, number(*n)?, number(*k)?, number(*count)?];
        let row = |matrix: &Matrix| number(matrix.row);
        let (in_a, in_b, in_c) = (begin(a)? as *const _, begin(b)? as *const _, begin(c)? as *mut _);
        let types = [type_of(a.dtype)?, type_of(b.dtype)?, type_of(c.dtype)?];
        let (op_a, op_b) = (operation(a), operation(b));
        // SAFETY: the matrices lie within their tensors, which live until the stream has gone on, since memory is
        // given back in the stream's order.
        let done = unsafe {
            if count == 1 {
                result::gemm_ex(
                    *blas.handle(),
                    op_b,
                    op_a,
                    n,
                    m,
                    k,
                    alpha,
                    in_b,
                    types[1],
                    row(b)?,
                    in_a,
                    types[0],
                    row(a)?,
                    beta,
                    in_c,
                    types[2],
                    row(c)?,
                    COMPUTE,
                    ALGORITHM,
                )
            } else {
                result::gemm_strided_batched_ex(
                    *blas.handle(),
                    op_b,
                    op_a,
                    n,
                    m,
                    k,
                    alpha,
                    in_b,
                    types[1],
                    row(b)?,
                    b.step as i64,
                    in_a,
                    types[0],
                    row(a)?,
                    a.step as i64,
                    beta,
                    in_c,
                    types[2],
                    row(c)?,
                    c.step as i64,
                    count,
                    COMPUTE,
                    ALGORITHM,
                )
            }
        };
        done.w()
    }
}

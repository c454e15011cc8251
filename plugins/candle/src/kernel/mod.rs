//! Kernels that candle lacks. For GPUs they are written once, in `source`, in a dialect that `source/dialect.h`
//! explains; `cuda/ptx.sh` makes `kernels.ptx` of them. For the processor they are in `host`.
//!
//! A [`Launch`] is a kernel's run: it gets the addresses of tensors, all contiguous, that it reads or writes. All is in
//! the order of one stream, so a kernel may write what an earlier one has read.

#[cfg(feature = "cuda")]
mod cuda;
pub mod elementwise;
#[cfg(all(test, target_os = "linux"))]
pub mod emulated;
#[cfg(feature = "metal")]
mod metal;
pub mod product;
#[cfg(any(feature = "metal", test))]
mod source;

use candle_core::{DType as CandleType, Device as Placed, Result, Tensor};

/// What a kernel gets behind its tensors: `Numbers` in `source/numbers.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Numbers {
    whole: [u64; 14],
    real: [f32; 6],
}

impl Numbers {
    /// What is not given is 0.
    pub fn new(whole: &[usize], real: &[f64]) -> Numbers {
        let mut numbers = Numbers::default();
        numbers.whole.iter_mut().zip(whole).for_each(|(place, &number)| *place = number as u64);
        numbers.real.iter_mut().zip(real).for_each(|(place, &number)| *place = number as f32);
        numbers
    }
}

/// The struct that a kernel takes.
#[allow(dead_code)] // read by a GPU's part alone
pub enum Parameters<'a> {
    Numbers(Numbers),
    Elementwise(&'a elementwise::Parameters),
}

/// A kernel's run on a GPU.
#[allow(dead_code)] // on the processor there is none
pub struct Launch<'a> {
    /// The function's name in the kernels' source.
    pub name: &'a str,
    /// Those that it reads and then those that it writes; contiguous.
    pub tensors: &'a [&'a Tensor],
    pub parameters: Parameters<'a>,
    /// As many as there is work for: kernels take any number.
    pub blocks: usize,
    /// Of a block.
    pub threads: usize,
}

/// Blocks of a kernel, at most; the work of more is done in turns.
pub const MOST_BLOCKS: usize = 1 << 20;
/// Elements that a thread of many kernels has at a time: `VECTOR` in the source.
pub const VECTOR: usize = 8;
/// Threads of a block, for kernels that want no other number.
pub const THREADS: usize = 256;

impl Launch<'_> {
    pub fn run(&self) -> Result<()> {
        #[cfg(all(test, target_os = "linux"))]
        if emulated::is_on() {
            return emulated::run(self);
        }
        #[cfg(feature = "cuda")]
        return cuda::run(self);
        #[cfg(feature = "metal")]
        return metal::run(self);
        #[cfg(not(any(feature = "cuda", feature = "metal")))]
        candle_core::bail!("{} is for a GPU, and this is built for the processor", self.name)
    }
}

/// Whether ops on that device are done by these kernels.
pub fn on_gpu(placed: &Placed) -> bool {
    #[cfg(all(test, target_os = "linux"))]
    if emulated::is_on() {
        return true;
    }
    !placed.is_cpu()
}

/// A kernel with numbers over so many blocks of rows or elements.
pub fn launch(
    name: &str,
    tensors: &[&Tensor],
    numbers: Numbers,
    blocks: usize,
    threads: usize,
) -> Result<()> {
    let blocks = blocks.clamp(1, MOST_BLOCKS);
    Launch { name, tensors, parameters: Parameters::Numbers(numbers), blocks, threads }.run()
}

/// Blocks for so many elements, [`VECTOR`] to a thread.
pub fn blocks_for(elements: usize) -> usize {
    elements.div_ceil(VECTOR * THREADS)
}

/// Threads for a row of so many elements.
pub fn threads_for(width: usize, most: usize) -> usize {
    width.div_ceil(VECTOR).next_power_of_two().clamp(32, most)
}

/// Threads of a launch's blocks where a block of that kernel has so many at most, which is less the more registers it
/// needs. Kernels go over their work in strides of whatever power of two from 32 on; products alone are made for one
/// number.
#[cfg(any(feature = "metal", all(test, target_os = "linux")))]
fn threads_within(launch: &Launch, most: usize) -> Result<usize> {
    let (name, wanted) = (launch.name, launch.threads);
    if wanted <= most {
        return Ok(wanted);
    }
    // The largest power of two.
    let fitting = most.checked_ilog2().map_or(0, |power| 1 << power);
    if fitting < 32 || name.starts_with("product_") {
        candle_core::bail!("{name} wants {wanted} threads to a block; this GPU runs {most}")
    }
    Ok(fitting)
}

/// Memory for a tensor on a GPU, which a kernel then writes.
#[allow(unsafe_code)]
pub fn empty(shape: &[usize], dtype: CandleType, placed: &Placed) -> Result<Tensor> {
    // SAFETY: every caller launches a kernel or a product that writes all of it before anything reads it.
    unsafe { Tensor::empty(shape, dtype, placed) }
}

/// What kernels call an element type.
pub fn suffix(dtype: CandleType) -> Result<&'static str> {
    Ok(match dtype {
        CandleType::F32 => "f32",
        CandleType::F16 => "f16",
        CandleType::BF16 => "bf16",
        other => candle_core::bail!("there are no kernels for elements of {other:?}"),
    })
}

/// Whether all rows of so many elements in these tensors begin at a multiple of 16 bytes: kernels then read and write
/// [`VECTOR`] elements at once.
pub fn is_wide(tensors: &[&Tensor], width: usize) -> bool {
    let begins_well = |tensor: &&Tensor| {
        (tensor.layout().start_offset() * tensor.dtype().size_in_bytes()).is_multiple_of(16)
    };
    // The allocations themselves begin at multiples of 256 bytes.
    width.is_multiple_of(VECTOR) && tensors.iter().all(begins_well)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// `kernels.ptx` is made by hand (`cuda/ptx.sh`): one older than its sources would run other kernels than they say.
    #[test]
    fn the_compiled_kernels_are_those_of_the_sources() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel");
        let is_cudas = |name: &str| !name.contains("prelude_host") && !name.contains("prelude_metal");
        let headers = std::fs::read_dir(folder.join("source")).unwrap().map(|entry| entry.unwrap());
        let mut headers: Vec<String> =
            headers.map(|entry| entry.file_name().into_string().unwrap()).collect();
        headers.retain(|name| name.ends_with(".h") && is_cudas(name));
        headers.sort();
        let mut hash = Sha256::new();
        hash.update(std::fs::read(folder.join("kernels.cu")).unwrap());
        headers.iter().for_each(|name| hash.update(std::fs::read(folder.join("source").join(name)).unwrap()));
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let ptx = std::fs::read_to_string(folder.join("kernels.ptx")).unwrap();
        let first = ptx.lines().next().unwrap();
        assert_eq!(first, format!("// sources: sha256 {hash}"), "run plugins/candle/cuda/ptx.sh");
    }

    /// A GPU that runs fewer threads of a kernel than it is launched with runs it all the same.
    #[test]
    #[cfg(target_os = "linux")]
    fn blocks_shrink_to_what_a_gpu_runs() {
        let within = |name: &str, threads: usize, most: usize| {
            let parameters = Parameters::Numbers(Numbers::default());
            threads_within(&Launch { name, tensors: &[], parameters, blocks: 1, threads }, most).ok()
        };
        assert_eq!(within("softmax_f32", 1024, 1024), Some(1024));
        assert_eq!(within("softmax_f32", 1024, 1023), Some(512));
        assert_eq!(within("cross_entropy_bf16", 1024, 448), Some(256));
        assert_eq!(within("softmax_f32", 64, 448), Some(64));
        assert_eq!(within("softmax_f32", 64, 31), None);
        assert_eq!(within("softmax_f32", 64, 0), None);
        assert_eq!(within("product_f32_f32_f32", 256, 256), Some(256));
        assert_eq!(within("product_f32_f32_f32", 256, 224), None);
    }
}

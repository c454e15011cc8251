//! A GPU's part for tests, on a machine without one: the kernels' own source, compiled as plain C++
//! (`source/prelude_host.h`, `source/emulator.h`), runs on candle's tensors for the processor.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, c_char, c_void};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};
use libloading::Library;

use super::{Launch, Numbers, Parameters, elementwise, source};

static IS_ON: AtomicBool = AtomicBool::new(false);
static IS_NARROW: AtomicBool = AtomicBool::new(false);
static MOST_THREADS: AtomicUsize = AtomicUsize::new(1024);
static ORDER: AtomicU32 = AtomicU32::new(0);
static RAN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on what is for a GPU is done by the emulation, a block's threads in that order (`Launch` in
/// `source/emulator.h`).
pub fn switch_on(order: u32) {
    ORDER.store(order, Ordering::SeqCst);
    IS_ON.store(true, Ordering::SeqCst);
}

/// Whether what lies between two products of an op is of the operands' type, as on CUDA.
pub fn set_narrow(is_narrow: bool) {
    IS_NARROW.store(is_narrow, Ordering::SeqCst);
}

/// How many threads a block of any kernel but a product has at most.
pub fn set_most_threads(most: usize) {
    MOST_THREADS.store(most, Ordering::SeqCst);
}

pub fn is_narrow() -> bool {
    IS_NARROW.load(Ordering::SeqCst)
}

pub fn is_on() -> bool {
    IS_ON.load(Ordering::SeqCst)
}

/// Kernels that have not run so far.
pub fn kernels_left() -> Vec<String> {
    let mut all = Vec::new();
    #[allow(unsafe_code)]
    // SAFETY: the function has this signature, and gives names that live as long as the library.
    unsafe {
        let name_of =
            library().get::<unsafe extern "C" fn(u64) -> *const c_char>(b"emulator_kernel").unwrap();
        for number in 0.. {
            let name = name_of(number);
            if name.is_null() {
                break;
            }
            all.push(CStr::from_ptr(name).to_string_lossy().into_owned());
        }
    }
    let ran = RAN.lock().unwrap();
    all.retain(|name| !ran.contains(name));
    all
}

/// `Operand` in the emulator's source.
#[repr(C)]
struct Operand {
    bytes: *mut u8,
    size: usize,
}

/// `Launch` in the emulator's source.
#[repr(C)]
struct Call {
    operands: *const Operand,
    count: u64,
    parameters: *const c_void,
    parameter_bytes: u64,
    blocks: u64,
    threads: u32,
    order: u32,
}

type Kernel = unsafe extern "C" fn(*const Call) -> *const c_char;

/// Undefined behaviour traps; arithmetic is in the order that is written.
const FLAGS: &str = "-std=c++20 -O1 -g1 -fPIC -shared -ffp-contract=off -fno-strict-aliasing \
                     -fsanitize=undefined -fno-sanitize=alignment -fsanitize-undefined-trap-on-error \
                     -Wall -Wextra -Wdouble-promotion -Wno-unknown-pragmas -Werror";

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (text, built) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&text, source::text("prelude_host.h")).unwrap();
        let mut compile = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compile.args(FLAGS.split_whitespace()).arg(&text).arg("-o").arg(&built);
        let status = compile.status().expect("this test needs a C++ compiler (c++, or what CXX says)");
        assert!(status.success(), "the kernels' source is not C++ as it stands");
        #[allow(unsafe_code)]
        // SAFETY: it was made of the kernels' source, and loading it runs nothing.
        unsafe {
            Library::new(&built).unwrap()
        }
    })
}

/// Runs a kernel to its end. What goes wrong in it is an error here; memory that it must not touch ends the process.
pub fn run(launch: &Launch) -> Result<()> {
    RAN.lock().unwrap().insert(launch.name.to_owned());
    let mut memories: HashMap<*const Storage, Memory> = HashMap::new();
    let mut operands = Vec::new();
    for &tensor in launch.tensors {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(held) = &*storage else { candle_core::bail!("an operand is elsewhere") };
        let memory = memories.entry(&raw const *storage).or_insert_with(|| Memory {
            bytes: bytes_of(held).to_vec(),
            before: bytes_of(held).to_vec(),
            tensor: tensor.clone(),
        });
        if tensor.is_contiguous() {
            memory.tensor = tensor.clone();
        }
        let size = tensor.dtype().size_in_bytes();
        // To the last element, however they lie: an operand of an elementwise kernel may have strides.
        let last: usize =
            layout.dims().iter().zip(layout.stride()).map(|(dim, stride)| (dim - 1) * stride).sum();
        let part = &mut memory.bytes[layout.start_offset() * size..][..(last + 1) * size];
        operands.push(Operand { bytes: part.as_mut_ptr(), size: part.len() });
    }
    let (parameters, parameter_bytes) = match &launch.parameters {
        Parameters::Numbers(numbers) => ((&raw const *numbers).cast(), size_of::<Numbers>()),
        Parameters::Elementwise(elementwise) => {
            ((&raw const **elementwise).cast(), size_of::<elementwise::Parameters>())
        }
    };
    let is_product = launch.name.starts_with("product_");
    let most = if is_product { launch.threads } else { MOST_THREADS.load(Ordering::SeqCst) };
    let call = Call {
        operands: operands.as_ptr(),
        count: operands.len() as u64,
        parameters,
        parameter_bytes: parameter_bytes as u64,
        blocks: launch.blocks as u64,
        threads: super::threads_within(launch, most)? as u32,
        order: ORDER.load(Ordering::SeqCst),
    };
    #[allow(unsafe_code)]
    // SAFETY: every kernel in the library has this signature; the operands lie in `memories`, which outlive the call.
    let problem = unsafe {
        let kernel = library().get::<Kernel>(launch.name.as_bytes()).map_err(candle_core::Error::wrap)?;
        let problem = kernel(&raw const call);
        (!problem.is_null()).then(|| CStr::from_ptr(problem).to_string_lossy().into_owned())
    };
    if let Some(problem) = problem {
        candle_core::bail!("{problem}")
    }
    let changed = memories.into_values().filter(|memory| memory.bytes != memory.before);
    changed.into_iter().try_for_each(|memory| memory.tensor.inplace_op1(&Written(&memory.bytes)))
}

/// What tensors lie in.
struct Memory {
    bytes: Vec<u8>,
    before: Vec<u8>,
    /// One of them, contiguous if it was written.
    tensor: Tensor,
}

fn bytes_of(storage: &CpuStorage) -> &[u8] {
    match storage {
        CpuStorage::F32(x) => bytemuck::cast_slice(x),
        CpuStorage::F16(x) => bytemuck::cast_slice(x),
        CpuStorage::BF16(x) => bytemuck::cast_slice(x),
        CpuStorage::U32(x) => bytemuck::cast_slice(x),
        CpuStorage::U8(x) => x,
        _ => panic!("the kernels have no such element type"),
    }
}

/// Puts bytes into a tensor's memory.
struct Written<'a>(&'a [u8]);

impl InplaceOp1 for Written<'_> {
    fn name(&self) -> &'static str {
        "written"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        match storage {
            CpuStorage::F32(x) => bytemuck::cast_slice_mut(x).copy_from_slice(self.0),
            CpuStorage::F16(x) => bytemuck::cast_slice_mut(x).copy_from_slice(self.0),
            CpuStorage::BF16(x) => bytemuck::cast_slice_mut(x).copy_from_slice(self.0),
            CpuStorage::U32(x) => bytemuck::cast_slice_mut(x).copy_from_slice(self.0),
            CpuStorage::U8(x) => x.copy_from_slice(self.0),
            _ => panic!("the kernels have no such element type"),
        }
        Ok(())
    }
}

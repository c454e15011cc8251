//! Apple's GPUs through Metal.

use candle_core::Device as Placed;
use candle_metal_kernels::metal::Device as Gpu;
use finetune_plugin_api::export::{DeviceDescription, Error, JsonObject, MemoryInfo};
use finetune_plugin_api::machine::Machine;
use objc2_foundation::NSProcessInfo;
use objc2_metal::{MTLDevice, MTLGPUFamily};

use super::DTYPES;
use crate::device::failure;

/// Apple's GPUs since the M1, by what Metal calls what they can do. All have 32 threads to a SIMD group, on which the
/// kernels rely.
const FAMILIES: [(MTLGPUFamily, &str); 4] = [
    (MTLGPUFamily::Apple10, "Apple 10"),
    (MTLGPUFamily::Apple9, "Apple 9"),
    (MTLGPUFamily::Apple8, "Apple 8"),
    (MTLGPUFamily::Apple7, "Apple 7"),
];

/// What is asked for memory.
pub struct Figures(Machine);

/// A GPU that this plugin can use.
struct Found {
    gpu: Gpu,
    family: &'static str,
    /// Candle's number of it.
    ordinal: usize,
}

fn version() -> String {
    let version = NSProcessInfo::processInfo().operatingSystemVersion();
    format!("{}.{}.{}", version.majorVersion, version.minorVersion, version.patchVersion)
}

/// Candle keeps its buffers resident in a way that Metal has since macOS 15, and does not ask for it before.
fn check_system() -> Result<(), Error> {
    if objc2::available!(macos = 15.0) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "candle's Metal needs macOS 15 or newer, and this is macOS {}; the CPU plugin and MLX run on older ones",
        version()
    )))
}

fn found() -> Result<Vec<Found>, Error> {
    check_system()?;
    let all = Gpu::all();
    let count = all.len();
    let known = all.into_iter().enumerate().filter_map(|(ordinal, gpu)| {
        let family = FAMILIES.into_iter().find(|&(family, _)| gpu.as_ref().supportsFamily(family));
        Some(Found { family: family?.1, gpu, ordinal })
    });
    let known: Vec<Found> = known.collect();
    if known.is_empty() {
        return Err(Error::unavailable(match count {
            0 => "Metal found no GPU".to_owned(),
            count => format!("none of the {count} GPUs that Metal found is Apple's own, from the M1 on"),
        }));
    }
    Ok(known)
}

pub fn probe() -> Result<Vec<DeviceDescription>, Error> {
    let main = Machine::new().memory();
    Ok(found()?.iter().map(|found| found.describe(main.available)).collect())
}

impl Found {
    fn describe(&self, main_available: u64) -> DeviceDescription {
        let mut details = JsonObject::new();
        details.insert("family".into(), self.family.into());
        details.insert("macos".into(), version().into());
        details.insert("working_set_bytes".into(), working_set(&self.gpu).into());
        details.insert("largest_buffer_bytes".into(), self.gpu.as_ref().maxBufferLength().into());
        DeviceDescription {
            name: self.gpu.as_ref().name().to_string(),
            kind: "metal".into(),
            memory_total: working_set(&self.gpu),
            memory_available: free(&self.gpu).min(main_available),
            unified: self.gpu.as_ref().hasUnifiedMemory(),
            dtypes: DTYPES.to_vec(),
            details,
        }
    }
}

pub fn open(index: u32) -> Result<(Placed, Figures), Error> {
    let found = found()?;
    let count = found.len();
    let chosen = found.get(index as usize).ok_or_else(|| Error::no_such_device(index, count))?;
    let placed = Placed::new_metal(chosen.ordinal).map_err(failure)?;
    Ok((placed, Figures(Machine::new())))
}

/// What Metal advises to stay below: beyond it macOS moves memory out, which is slow, or ends the process.
fn working_set(gpu: &Gpu) -> u64 {
    gpu.recommended_max_working_set_size() as u64
}

fn free(gpu: &Gpu) -> u64 {
    working_set(gpu).saturating_sub(gpu.current_allocated_size() as u64)
}

/// Runs what uses the device. What Objective-C would let go of some time later is let go at its end.
pub fn scoped<R>(work: impl FnOnce() -> R) -> R {
    objc2::rc::autoreleasepool(|_| work())
}

impl Figures {
    /// Candle pools its buffers, in sizes that are powers of two: what this process has of Metal and what tensors
    /// use of it are two numbers.
    pub fn memory(&mut self, placed: &Placed, counted: MemoryInfo) -> MemoryInfo {
        let main = self.0.memory();
        let Ok(device) = placed.as_metal_device() else { return counted };
        let gpu = device.metal_device();
        let allocated = gpu.current_allocated_size() as u64;
        MemoryInfo {
            total: working_set(gpu),
            available: free(gpu).min(main.available),
            cached: allocated.saturating_sub(counted.used),
            ..counted
        }
    }
}

/// Whether so many bytes fit into the advised working set, if need be after the pool has let go of what it keeps.
/// Metal itself would go on allocating.
pub fn has_room(placed: &Placed, bytes: usize) -> bool {
    let Ok(device) = placed.as_metal_device() else { return true };
    let fits = || bytes as u64 <= free(device.metal_device());
    fits() || (device.wait_until_completed().is_ok() && fits())
}

//! The device: buffers, memory, compiled programs.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::rc::Rc;

use finetune_plugin_api::export::{
    Bound, Device, Error, HostBytes, JsonObject, MemoryInfo, Staged, serde_json,
};
use finetune_plugin_api::plan::PlanOptions;
use finetune_plugin_api::program::{DType, Program, TensorType};

use crate::compile::Compiled;
use crate::mlx::{self, Array, Mlx};
use crate::ops;
use crate::probe::Found;

/// A tensor of the device.
pub struct Buffer {
    contents: Staged<Array>,
    /// Bytes of all buffers of the device; this one's among them.
    held: Rc<Cell<usize>>,
    /// The elements, where the host wrote them and they are few numbers of type `u32`: programs look at them.
    pub(crate) known: Option<Vec<u32>>,
}

/// Bytes over the plan that are not waited for: else small programs would run one part at a time.
const SLACK: usize = 256 << 20;

/// Parts that may be under way before one is forgotten: it could only be waited for too late.
const AHEAD: usize = 32;

/// Numbers that programs may look at before they run.
const KNOWN: usize = 1 << 16;

impl Buffer {
    fn new(device: &MlxDevice, ty: &TensorType) -> Buffer {
        let held = device.held.clone();
        held.set(held.get().saturating_add(ty.bytes()));
        Buffer { contents: Staged::empty(ty), held, known: None }
    }

    /// Its array, made if need be.
    fn array(&self, mlx: &Mlx) -> Result<Array, Error> {
        let TensorType { shape, dtype } = self.contents.ty();
        self.contents.get(|bytes| match bytes {
            None => mlx.zeros(shape, *dtype),
            Some(bytes) => mlx::from_bytes(bytes, shape, *dtype),
        })
    }

    fn set(&mut self, array: Array) {
        self.known = None;
        self.contents.set(array);
    }

    fn remember(&mut self, bytes: &[u8]) {
        if self.contents.ty().dtype == DType::U32 && bytes.len() <= 4 * KNOWN {
            let number = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            self.known = Some(bytes.chunks_exact(4).map(number).collect());
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.held.set(self.held.get().saturating_sub(self.contents.ty().bytes()));
    }
}

/// An open device.
pub struct MlxDevice {
    mlx: Rc<Mlx>,
    held: Rc<Cell<usize>>,
    /// The most that a program needs besides buffers.
    room: usize,
    found: Found,
    compile: bool,
    total: u64,
}

impl MlxDevice {
    pub(crate) fn new(found: Found, compile: bool) -> Result<MlxDevice, Error> {
        let mlx = Rc::new(Mlx::on(found.gpu, found.index)?);
        let total = found.memory()?.total;
        #[cfg(target_os = "linux")]
        crate::blas::begin();
        limit_memory(&found, total)?;
        Ok(MlxDevice { mlx, held: Rc::default(), room: 0, found, compile, total })
    }

    /// MLX hands work to the GPU ahead of time, and the memory of all of it is taken at once. Beyond what the host was
    /// told that a run takes, the older parts are waited for. (MLX's own limit would have it give back the memory that
    /// it keeps for reuse.)
    fn stay_within_the_plan(&self, begun: &mut VecDeque<Array>) -> Result<(), Error> {
        if !self.found.gpu {
            begun.clear();
            return Ok(());
        }
        begun.drain(..begun.len().saturating_sub(AHEAD));
        let planned = self.held.get().saturating_add(self.room).saturating_add(SLACK);
        while begun.len() > 1 && mlx_rs::memory::active_memory().map_err(|_| mlx::failure())? > planned {
            if let Some(oldest) = begun.pop_front() {
                mlx::eval(&[&oldest])?;
            }
        }
        self.check_limit()
    }

    /// MLX takes its memory limit for a guideline, and where the system gives no more, Metal ends the process.
    fn check_limit(&self) -> Result<(), Error> {
        let active = || mlx_rs::memory::active_memory().map_err(|_| mlx::failure());
        let limit = memory_limit(self.total);
        if limit == 0 || active()? <= limit {
            return Ok(());
        }
        self.mlx.synchronize()?;
        match active()? {
            active if active > limit => Err(Error::out_of_memory(format!(
                "MLX has {} MiB in use; {} MiB are what it may use here",
                active >> 20,
                limit >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// On the processor MLX does not look whether it was given memory: asked before, it is an error.
    fn check_room(&self, bytes: usize, what: impl Display) -> Result<(), Error> {
        let has_room = self.found.gpu || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
        let error = || Error::out_of_memory(format!("there are no {bytes} bytes for {what}"));
        if has_room { Ok(()) } else { Err(error().untouched()) }
    }

    /// Begins the computation of results part by part. Left to itself MLX computes all of them last, and what they are
    /// made of is there at once: every layer's gradient beside the sum that it is added to.
    fn evaluate(&self, compiled: &Compiled, mut results: Vec<Option<Array>>) -> Result<(), Error> {
        let mut begun = VecDeque::new();
        for group in compiled.groups() {
            let arrays: Vec<Array> = group.iter().filter_map(|&i| results.get_mut(i)?.take()).collect();
            mlx::eval_async(&arrays.iter().collect::<Vec<_>>())?;
            // Results are held by their buffers, waypoints by whatever reads them.
            begun.extend(arrays.into_iter().next());
            self.stay_within_the_plan(&mut begun)?;
        }
        Ok(())
    }

    fn read(&self, array: &Array, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        mlx::eval(&[array])?;
        // Only where it must be: anything new is computed after all that was begun, and reading a number of the last
        // step would wait for the next.
        if mlx::is_row_contiguous(array)? {
            return mlx::copy_bytes(array, offset, into);
        }
        let array = self.mlx.contiguous(array)?;
        mlx::eval(&[&array])?;
        mlx::copy_bytes(&array, offset, into)
    }
}

impl Drop for MlxDevice {
    /// MLX's own threads let go of what a run used when it is done. They must not be at it when the process ends.
    fn drop(&mut self) {
        let _ = self.mlx.synchronize();
    }
}

/// Bytes that may be in use of so many; 0 where that is not known.
fn memory_limit(total: u64) -> usize {
    usize::try_from(total).unwrap_or(usize::MAX) / 100 * 95
}

/// MLX keeps freed memory for reuse, and by default as much as there is. What is kept is bounded, so that a run
/// over many shapes does not grow without end; and from the limit on MLX gives kept memory back before it takes more.
fn limit_memory(found: &Found, total: u64) -> Result<(), Error> {
    if !found.gpu || total == 0 {
        return Ok(());
    }
    let failed = |_| mlx::failure();
    mlx_rs::memory::set_memory_limit(memory_limit(total)).map_err(failed)?;
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    mlx_rs::memory::set_cache_limit(total / 4).map_err(failed)?;
    if cfg!(target_os = "macos") {
        // Systems before macOS 15 cannot; then memory is wired as the system sees fit.
        let _ = mlx_rs::memory::set_wired_limit(total);
    }
    Ok(())
}

fn limits(dims: &TensorType) -> Result<(), Error> {
    mlx::dtype(dims.dtype)?;
    mlx::ints(&dims.shape).map(|_| ()).map_err(Error::untouched)
}

impl Device for MlxDevice {
    type Buffer = Buffer;
    type Compiled = Compiled;

    const ASYNCHRONOUS: bool = true;

    fn ops(&self) -> Vec<&'static str> {
        ops::native(self.found.gpu)
    }

    fn properties(&self) -> JsonObject {
        let mut properties = JsonObject::new();
        // The options are plain data: numbers, words and lists always have a JSON form.
        let plan: PlanOptions = ops::plan_options(self.found.gpu);
        properties.insert("plan".into(), serde_json::to_value(plan).unwrap_or_default());
        properties.insert("mlx".into(), mlx::version().into());
        properties.insert("compile".into(), self.compile.into());
        properties
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        limits(ty)?;
        self.check_room(ty.bytes(), format_args!("a tensor {ty}"))?;
        Ok(Buffer::new(self, ty))
    }

    fn adopt(&mut self, ty: &TensorType, memory: HostBytes) -> Result<Buffer, Error> {
        limits(ty)?;
        self.check_room(ty.bytes(), format_args!("a tensor {ty}"))?;
        let array = mlx::from_bytes(memory.as_slice(), &ty.shape, ty.dtype)?;
        let mut buffer = Buffer::new(self, ty);
        buffer.set(array);
        buffer.remember(memory.as_slice());
        Ok(buffer)
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let TensorType { shape, dtype } = buffer.contents.ty().clone();
        let make = |bytes: &[u8]| {
            self.check_room(bytes.len(), "a tensor that the host writes")?;
            mlx::from_bytes(bytes, &shape, dtype)
        };
        buffer.known = None;
        buffer.contents.upload(offset, bytes, make, |array, into| self.read(array, 0, into))?;
        if offset == 0 && bytes.len() == buffer.contents.ty().bytes() {
            buffer.remember(bytes);
        }
        Ok(())
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        self.read(&buffer.array(&self.mlx)?, offset, into)
    }

    fn compile(&mut self, program: Program) -> Result<Compiled, Error> {
        program.types().iter().try_for_each(limits)?;
        let compiled = Compiled::new(self.mlx.clone(), program, self.compile)?;
        self.room = self.room.max(compiled.room());
        Ok(compiled)
    }

    fn details(&self, compiled: &Compiled) -> JsonObject {
        JsonObject::from_iter([("workspace_bytes".into(), compiled.room().into())])
    }

    fn run(
        &mut self,
        compiled: &mut Compiled,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        self.check_room(compiled.room(), "a run of MLX")?;
        let known: Vec<_> = arguments.iter().map(|bound| bound.get().known.as_deref()).collect();
        let facts = compiled.facts(&known);
        let arrays: Vec<Array> =
            arguments.iter().map(|bound| bound.get().array(&self.mlx)).collect::<Result<_, _>>()?;
        let results = compiled.apply(&facts, &arrays)?;
        let missing = || Error::internal("the closure gave fewer arrays than the program has results");
        let mut each = results.iter().cloned();
        for output in outputs.iter_mut() {
            output.set(each.next().ok_or_else(missing)?);
        }
        for &number in compiled.updated() {
            let buffer = arguments.get_mut(number).and_then(Bound::get_mut).ok_or_else(missing)?;
            buffer.set(each.next().ok_or_else(missing)?);
        }
        // Nothing but the graph holds the old state now, so MLX may write the new one in its place.
        drop(arrays);
        drop(each);
        self.evaluate(compiled, results.into_iter().map(Some).collect())
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        let failed = |_| mlx::failure();
        let used = mlx_rs::memory::active_memory().map_err(failed)? as u64;
        let peak = mlx_rs::memory::peak_memory().map_err(failed)? as u64;
        let cached = mlx_rs::memory::cache_memory().map_err(failed)? as u64;
        let available =
            if self.found.gpu { self.total.saturating_sub(used) } else { self.found.memory()?.available };
        Ok(MemoryInfo { used, peak: peak.max(used), cached, total: self.total, available })
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        mlx_rs::memory::reset_peak_memory().map_err(|_| mlx::failure())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.mlx.synchronize()
    }
}

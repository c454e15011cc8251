//! The device: buffers, memory, compiled programs.

use std::sync::{Arc, Weak};

use finetune_plugin_api::export::{Bound, Device, Error, HostBytes, JsonObject, Lease, MemoryInfo, Meter};
use finetune_plugin_api::machine::Machine;
use finetune_plugin_api::plan::PlanOptions;
use finetune_plugin_api::program::{Program, TensorType};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::compile::{Binding, Executable};
use crate::ops;
use crate::simd;
use crate::storage::{ALIGN, Bytes, Memory};

/// A tensor in main memory.
pub struct Buffer {
    memory: Memory,
    _lease: Lease,
}

/// A program with its plan.
pub struct Compiled {
    executable: Executable,
    /// What it needs of the device's arena; the device holds a weak reference.
    need: Arc<usize>,
}

/// The processor, with threads of its own and one arena for all programs.
pub struct CpuDevice {
    pool: ThreadPool,
    options: PlanOptions,
    threads: usize,
    meter: Meter,
    machine: Machine,
    arena: Bytes,
    arena_lease: Option<Lease>,
    needs: Vec<Weak<usize>>,
}

impl CpuDevice {
    pub(crate) fn new(threads: usize) -> Result<CpuDevice, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("finetune-cpu-{i}"))
            .build()
            .map_err(|error| Error::unavailable(format!("{threads} threads cannot be started: {error}")))?;
        let options = PlanOptions {
            strided_views: true,
            widening_views: true,
            direct_outputs: true,
            direct_state: true,
            in_place: ops::IN_PLACE.iter().map(ToString::to_string).collect(),
            align: ALIGN,
            workspace: ops::workspace(threads),
        };
        Ok(CpuDevice {
            pool,
            options,
            threads,
            meter: Meter::default(),
            machine: Machine::new(),
            arena: Bytes::zeroed(0, "an empty arena")?,
            arena_lease: None,
            needs: Vec::new(),
        })
    }

    fn buffer(&self, memory: Memory) -> Buffer {
        let lease = self.meter.lease(memory.as_slice().len());
        Buffer { memory, _lease: lease }
    }

    /// Makes the arena as large as the most demanding program that is still held needs it, and this one.
    fn fit_arena(&mut self, need: usize) -> Result<(), Error> {
        self.needs.retain(|other| other.strong_count() > 0);
        let most = self.needs.iter().filter_map(Weak::upgrade).map(|other| *other).fold(need, usize::max);
        if most == self.arena.len() {
            return Ok(());
        }
        // Nothing in it outlives a run: the old one goes first, so that the two never exist together.
        self.arena = Bytes::zeroed(0, "an empty arena")?;
        self.arena_lease = None;
        self.arena = Bytes::zeroed(most, "a program's arena")?;
        self.arena_lease = Some(self.meter.lease(most));
        Ok(())
    }
}

impl Device for CpuDevice {
    type Buffer = Buffer;
    type Compiled = Compiled;
    const ASYNCHRONOUS: bool = false;

    fn ops(&self) -> Vec<&'static str> {
        ops::NATIVE.to_vec()
    }

    fn properties(&self) -> JsonObject {
        let mut properties = JsonObject::new();
        // The options are plain data: numbers, words and lists always have a JSON form.
        let plan = finetune_plugin_api::export::serde_json::to_value(&self.options).unwrap_or_default();
        properties.insert("plan".into(), plan);
        properties.insert("simd".into(), simd::level().into());
        properties.insert("threads".into(), self.threads.into());
        properties
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        Ok(self.buffer(Memory::Owned(Bytes::zeroed(ty.bytes(), &format!("a tensor {ty}"))?)))
    }

    fn adopt(&mut self, ty: &TensorType, memory: HostBytes) -> Result<Buffer, Error> {
        if memory.as_slice().as_ptr().addr().is_multiple_of(ty.dtype.size()) {
            return Ok(self.buffer(Memory::Lent(memory)));
        }
        let mut buffer = self.allocate(ty)?;
        self.upload(&mut buffer, 0, memory.as_slice())?;
        Ok(buffer)
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let Memory::Owned(memory) = &mut buffer.memory else {
            return Err(
                Error::invalid_argument("the buffer is lent by the host and cannot be written").untouched()
            );
        };
        let range = memory.as_mut_slice().get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len()));
        let range = range.ok_or_else(|| Error::outside(offset, bytes.len()))?;
        range.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        let range = buffer.memory.as_slice().get(offset..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(range.ok_or_else(|| Error::outside(offset, into.len()))?);
        Ok(())
    }

    fn compile(&mut self, program: Program) -> Result<Compiled, Error> {
        let executable = Executable::new(program, &self.options)?;
        let need = executable.arena_bytes();
        self.fit_arena(need)?;
        let need = Arc::new(need);
        self.needs.push(Arc::downgrade(&need));
        Ok(Compiled { executable, need })
    }

    fn details(&self, compiled: &Compiled) -> JsonObject {
        let mut details = JsonObject::new();
        details.insert("workspace_bytes".into(), (*compiled.need).into());
        details
    }

    fn run(
        &mut self,
        compiled: &mut Compiled,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        let need = *compiled.need;
        if self.arena.len() < need {
            self.fit_arena(need)?;
        }
        let mut binding = Binding::new(self.arena.as_mut_slice());
        for argument in arguments {
            match argument {
                Bound::Shared(buffer) => binding.argument(buffer.memory.as_slice()),
                Bound::Mut(buffer) => match &mut buffer.memory {
                    Memory::Owned(bytes) => binding.state(bytes.as_mut_slice()),
                    Memory::Lent(_) => {
                        let message = "a state is bound to a buffer that the host lends, which is read only";
                        return Err(Error::invalid_argument(message).untouched());
                    }
                },
            }
        }
        for output in outputs {
            match &mut output.memory {
                Memory::Owned(bytes) => binding.output(bytes.as_mut_slice()),
                Memory::Lent(_) => {
                    let message = "an output is bound to a buffer that the host lends, which is read only";
                    return Err(Error::invalid_argument(message).untouched());
                }
            }
        }
        self.pool.install(|| compiled.executable.run(binding))
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        let machine = self.machine.memory();
        Ok(MemoryInfo { total: machine.total, available: machine.available, ..self.meter.info() })
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        self.meter.reset_peak();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Threads that compute unless `open` says otherwise.
pub(crate) fn default_threads() -> usize {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let wanted = wanted.filter(|threads| *threads > 0);
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

//! A model on a device: its tensors as buffers, and the programs that run over them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use finetune_plugin_api::program::{Arg, DType, Program, Role, TensorType};

use crate::models::{
    Architecture, Extension, ForwardOptions, LossProgram, ModelError, extend_program, loss_program,
};
use crate::optim::Trainable;
use crate::plugins::{Buffer, Compiled};
use crate::precision::Precision;
use crate::transform;
use crate::weights::{TensorView, WeightDType};

use super::backend::Backend;
use super::error::TrainError;
use super::oversight::{Pulse, Sign};
use super::source::{AdapterSource, Elements, Source, dtype, weight_dtype};

pub use super::purpose::Purpose;

/// Bytes that are moved to or from a device at once.
const PIECE: usize = 64 << 20;
/// Compiled programs that are kept; the least recently used one makes room. More than a run has: two for each of
/// at most eight lengths, and the one that applies.
const KEPT_PROGRAMS: usize = 24;

/// What a session holds.
pub struct Session {
    /// Where it computes.
    pub backend: Backend,
    /// The model's files.
    pub source: Source,
    /// The adapters, if there are any.
    pub adapter: Option<AdapterSource>,
    /// The precision.
    pub precision: Precision,
    /// Whether the model's own tensors are trained.
    pub full: bool,
    /// Who hears that it is alive.
    pub pulse: Pulse,
    /// Programs that were compiled so far.
    pub compiled: u64,
    tensors: BTreeMap<String, Buffer>,
    trained: Vec<Trainable>,
    programs: Vec<Entry>,
    /// Programs that were built to foresee the memory, until they are compiled.
    built: Vec<(Purpose, Program)>,
    clock: u64,
}

struct Entry {
    purpose: Purpose,
    compiled: Compiled,
    args: Vec<Arg>,
    inputs: BTreeMap<String, Buffer>,
    /// Sets of output buffers, which runs take in turn, so that a run's outputs can be read after the next began.
    outputs: Vec<Vec<(String, Buffer)>>,
    /// The set that the last run took.
    turn: usize,
    used: u64,
}

impl Session {
    /// A session without any tensor on the device yet.
    pub fn new(
        backend: Backend,
        source: Source,
        adapter: Option<AdapterSource>,
        precision: Precision,
        full: bool,
    ) -> Result<Session, TrainError> {
        let mut session = Session {
            backend,
            source,
            adapter,
            precision,
            full,
            pulse: Pulse::default(),
            compiled: 0,
            tensors: BTreeMap::new(),
            trained: Vec::new(),
            programs: Vec::new(),
            built: Vec::new(),
            clock: 0,
        };
        // Any size of batch reads the same tensors.
        let forward = session.forward(1, 1, false)?;
        for (name, ty) in read(&forward) {
            if forward.trained.iter().any(|(trained, _)| *trained == name) {
                session.trained.push(Trainable { name, shape: ty.shape });
            }
        }
        Ok(session)
    }

    /// The trained tensors, in the order in which the model reads them.
    pub fn trained(&self) -> &[Trainable] {
        &self.trained
    }

    /// The forward program with the summed loss, open for gradients.
    pub fn forward(&self, rows: usize, length: usize, training: bool) -> Result<LossProgram, TrainError> {
        self.with_options(rows, length, training, loss_program)
    }

    /// The program that appends positions to a cache and gives logits, as the device takes it.
    pub fn extension(&self, length: usize, capacity: usize) -> Result<Extension, TrainError> {
        let mut extension =
            self.with_options(1, length, false, |model, options| extend_program(model, options, capacity))?;
        extension.program = self.lowered(extension.program)?;
        Ok(extension)
    }

    fn with_options<T>(
        &self,
        rows: usize,
        length: usize,
        training: bool,
        write: impl FnOnce(&dyn Architecture, &ForwardOptions<'_>) -> Result<T, ModelError>,
    ) -> Result<T, TrainError> {
        let options = ForwardOptions {
            rows,
            length,
            precision: self.precision,
            lora: self.adapter.as_ref().map(|adapter| &adapter.lora),
            full: self.full,
            dropout: training,
            stored: &|name| self.source.stored(name),
        };
        Ok(write(self.source.architecture.as_ref(), &options)?)
    }

    /// A program as the device takes it.
    pub fn lowered(&self, program: Program) -> Result<Program, TrainError> {
        Ok(transform::for_device(&program, &self.backend.device.ops()?)?)
    }

    /// Brings every tensor that the model reads to the device.
    pub fn load(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), TrainError> {
        let wanted = read(&self.forward(1, 1, false)?);
        let total: u64 = wanted.iter().map(|(_, ty)| ty.bytes() as u64).sum();
        let mut done = 0;
        for (name, ty) in wanted {
            let trained = self.trained.iter().any(|trained| trained.name == name);
            let buffer = self.bring(&name, &ty, trained)?;
            self.tensors.insert(name, buffer);
            done += ty.bytes() as u64;
            progress(done, total);
        }
        Ok(())
    }

    fn bring(&self, name: &str, ty: &TensorType, trained: bool) -> Result<Buffer, TrainError> {
        let adapter = self.adapter.as_ref().and_then(|adapter| adapter.elements(name));
        let elements = match adapter {
            Some(elements) => elements,
            None => self.source.elements(name)?,
        };
        let to = weight_dtype(ty.dtype)
            .ok_or_else(|| TrainError::Internal(format!("the tensor {name:?} cannot be held as {ty}")))?;
        // What is not written and need not be converted stays where the file is mapped.
        if let (Elements::File(view), false) = (&elements, trained)
            && let Some((stored, bytes)) = view.as_stored()
            && dtype(stored) == ty.dtype
        {
            return Ok(self.backend.device.adopt(ty, Arc::new(bytes.clone()))?);
        }
        let buffer = self.backend.device.allocate(ty)?;
        elements
            .for_each_piece(to, |offset, bytes| Ok(self.backend.device.upload(&buffer, offset, bytes)?))?;
        Ok(buffer)
    }

    /// A state buffer of zeros, if there is none of that name.
    pub fn zeros(&mut self, name: &str, ty: &TensorType) -> Result<(), TrainError> {
        if self.tensors.contains_key(name) {
            return Ok(());
        }
        let buffer = self.backend.device.allocate(ty)?;
        self.upload_zeros(&buffer, ty.bytes())?;
        self.tensors.insert(name.into(), buffer);
        Ok(())
    }

    fn upload_zeros(&self, buffer: &Buffer, bytes: usize) -> Result<(), TrainError> {
        let zeros = vec![0u8; bytes.min(PIECE)];
        for offset in (0..bytes).step_by(PIECE) {
            self.backend.device.upload(buffer, offset, &zeros[..zeros.len().min(bytes - offset)])?;
        }
        Ok(())
    }

    /// Frees a tensor.
    pub fn free(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// Releases the compiled programs of some purposes.
    pub fn release(&mut self, unwanted: impl Fn(&Purpose) -> bool) {
        self.programs.retain(|entry| !unwanted(&entry.purpose));
    }

    /// The buffer of a tensor.
    pub fn tensor(&self, name: &str) -> Result<&Buffer, TrainError> {
        self.tensors
            .get(name)
            .ok_or_else(|| TrainError::Internal(format!("the tensor {name:?} is not on the device")))
    }

    /// Reads an f32 tensor of so many elements from the device, piece by piece.
    pub fn download(
        &self,
        name: &str,
        elements: usize,
        mut piece: impl FnMut(&[u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let buffer = self.tensor(name)?;
        let bytes = elements * DType::F32.size();
        let mut room = vec![0u8; bytes.min(PIECE)];
        for offset in (0..bytes).step_by(PIECE) {
            let room = &mut room[..PIECE.min(bytes - offset)];
            self.backend.device.download(buffer, offset, room)?;
            piece(room)?;
        }
        Ok(())
    }

    /// Overwrites an f32 tensor with one from a file.
    pub fn restore(&self, name: &str, view: TensorView) -> Result<(), TrainError> {
        let buffer = self.tensor(name)?;
        Elements::File(view).for_each_piece(WeightDType::F32, |offset, bytes| {
            Ok(self.backend.device.upload(buffer, offset, bytes)?)
        })
    }

    /// Overwrites a part of a tensor, from a byte on.
    pub fn overwrite(&self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), TrainError> {
        Ok(self.backend.device.upload(self.tensor(name)?, offset, bytes)?)
    }

    /// Forgets the programs that were built and not asked for.
    pub fn forget_kept(&mut self) {
        self.built.clear();
    }

    /// Keeps a program that was built, until it is asked for.
    pub fn keep(&mut self, purpose: Purpose, program: Program) {
        self.built.push((purpose, program));
    }

    /// The program that was kept for a purpose, if there is one.
    pub fn kept(&mut self, purpose: &Purpose) -> Option<Program> {
        let at = self.built.iter().position(|(kept, _)| kept == purpose)?;
        Some(self.built.swap_remove(at).1)
    }

    /// Whether there is a compiled program for a purpose.
    pub fn has_program(&self, purpose: &Purpose) -> bool {
        self.programs.iter().any(|entry| entry.purpose == *purpose)
    }

    /// Compiles a program for the device and keeps it.
    pub fn compile(&mut self, purpose: Purpose, program: &Program) -> Result<(), TrainError> {
        self.pulse.give(Sign::Compiling);
        self.compiled += 1;
        let device = &self.backend.device;
        let begun = Instant::now();
        let compiled = device.compile(program)?;
        tracing::info!(
            "{} compiled the program to {purpose} in {:.3} s: {} ops, {} bytes of workspace",
            self.backend.name,
            begun.elapsed().as_secs_f64(),
            program.nodes().len(),
            compiled.details().get("workspace_bytes").map_or("unknown".into(), ToString::to_string)
        );
        let mut inputs = BTreeMap::new();
        for arg in program.args().iter().filter(|arg| arg.role == Role::Input) {
            inputs.insert(arg.name.clone(), device.allocate(program.ty(arg.value))?);
        }
        let sets = if purpose == Purpose::Apply { 2 } else { 1 };
        let mut outputs = Vec::new();
        for _ in 0..sets {
            let mut set = Vec::new();
            for output in program.outputs() {
                set.push((output.name.clone(), device.allocate(program.ty(output.value))?));
            }
            outputs.push(set);
        }
        if self.programs.len() >= KEPT_PROGRAMS
            && let Some(oldest) = (0..self.programs.len()).min_by_key(|&i| self.programs[i].used)
        {
            let entry = self.programs.swap_remove(oldest);
            tracing::info!("the program to {} is let go to make room", entry.purpose);
        }
        let args = program.args().to_vec();
        self.programs.push(Entry { purpose, compiled, args, inputs, outputs, turn: 0, used: self.clock });
        Ok(())
    }

    /// Runs the program of a purpose with the given inputs; returns the outputs, each a single f32.
    pub fn run(
        &mut self,
        purpose: &Purpose,
        inputs: &[(&str, &[u8])],
    ) -> Result<BTreeMap<String, f32>, TrainError> {
        let set = self.submit(purpose, inputs)?;
        self.outputs(purpose, set)
    }

    /// Runs the program of a purpose with the given inputs; gives the buffers of its outputs, which it may still be
    /// writing: reading them waits.
    pub fn execute(
        &mut self,
        purpose: &Purpose,
        inputs: &[(&str, &[u8])],
    ) -> Result<&[(String, Buffer)], TrainError> {
        let set = self.submit(purpose, inputs)?;
        self.buffers(purpose, set)
    }

    /// Begins what [`Session::run`] does, without waiting for it where the device does not; returns the set that the
    /// outputs will be in until the run after the next.
    pub fn submit(&mut self, purpose: &Purpose, inputs: &[(&str, &[u8])]) -> Result<usize, TrainError> {
        self.clock += 1;
        let entry = self.programs.iter_mut().find(|entry| entry.purpose == *purpose);
        let entry = entry.ok_or_else(|| not_compiled(purpose))?;
        entry.used = self.clock;
        let device = &self.backend.device;
        for (name, bytes) in inputs {
            // A program that does not read an input does not declare it.
            if let Some(buffer) = entry.inputs.get(*name) {
                device.upload(buffer, 0, bytes)?;
            }
        }
        let mut arguments = Vec::with_capacity(entry.args.len());
        for arg in &entry.args {
            let found = match arg.role {
                Role::Input => entry.inputs.get(&arg.name),
                Role::Param | Role::State => self.tensors.get(&arg.name),
            };
            arguments.push(found.ok_or_else(|| {
                TrainError::Internal(format!("the argument {:?} is not on the device", arg.name))
            })?);
        }
        entry.turn = (entry.turn + 1) % entry.outputs.len();
        let set = entry.turn;
        let outputs: Vec<&Buffer> = entry.outputs[set].iter().map(|(_, buffer)| buffer).collect();
        device.run(&entry.compiled, &arguments, &outputs)?;
        Ok(set)
    }

    /// Waits for the outputs of a run, each a single f32.
    pub fn outputs(&self, purpose: &Purpose, set: usize) -> Result<BTreeMap<String, f32>, TrainError> {
        let mut values = BTreeMap::new();
        for (name, buffer) in self.buffers(purpose, set)? {
            let mut bytes = [0u8; 4];
            buffer.device().download(buffer, 0, &mut bytes)?;
            values.insert(name.clone(), f32::from_le_bytes(bytes));
        }
        Ok(values)
    }

    fn buffers(&self, purpose: &Purpose, set: usize) -> Result<&[(String, Buffer)], TrainError> {
        let entry = self.programs.iter().find(|entry| entry.purpose == *purpose);
        Ok(&entry.ok_or_else(|| not_compiled(purpose))?.outputs[set])
    }
}

fn not_compiled(purpose: &Purpose) -> TrainError {
    TrainError::Internal(format!("no program is compiled for {purpose:?}"))
}

/// The tensors that a program reads besides its inputs.
fn read(forward: &LossProgram) -> Vec<(String, TensorType)> {
    let args = forward.builder.args().iter().filter(|arg| arg.role != Role::Input);
    args.map(|arg| (arg.name.clone(), forward.builder.ty(arg.value).clone())).collect()
}

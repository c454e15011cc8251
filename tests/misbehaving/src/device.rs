//! The device: the reference interpreter, as in plugin-api's example, with the points at which it misbehaves.

use finetune_plugin_api::export::{Bound, Device, Error, Lease, MemoryInfo, Meter};
use finetune_plugin_api::program::{Class, DType, Program, Role, TensorType, table};
use finetune_plugin_api::reference::{self, Rounding, Tensor};

use crate::script::{Point, Script};

/// The device.
pub struct Interpreter {
    script: Script,
    memory: Meter,
    runs: u64,
    steps: u64,
}

/// A tensor as the host sees it.
pub struct Buffer {
    ty: TensorType,
    bytes: Vec<u8>,
    _lease: Lease,
}

impl Interpreter {
    pub fn new(script: Script) -> Interpreter {
        Interpreter { script, memory: Meter::default(), runs: 0, steps: 0 }
    }

    fn check_rows(&self, point: Point, program: &Program) -> Result<(), Error> {
        let Some(most) = self.script.most_rows(point) else { return Ok(()) };
        let inputs = program.args().iter().filter(|arg| arg.role == Role::Input);
        let rows = inputs.filter_map(|arg| program.ty(arg.value).shape.first().copied()).max().unwrap_or(0);
        match rows > most {
            true => Err(Error::out_of_memory(format!("made up for a test: {rows} rows, at most {most} fit"))),
            false => Ok(()),
        }
    }
}

/// Whether the program is the one that ends a training step: it alone updates moments.
fn ends_step(program: &Program) -> bool {
    program.outputs().iter().any(|output| output.name == "grad_norm")
}

impl Device for Interpreter {
    type Buffer = Buffer;
    type Compiled = Program;
    const ASYNCHRONOUS: bool = false;

    /// All, so that the interpreter has few ops to run.
    fn ops(&self) -> Vec<&'static str> {
        table::TABLE.iter().filter(|def| def.class == Class::Composite).map(|def| def.name).collect()
    }

    fn allocate(&mut self, ty: &TensorType) -> Result<Buffer, Error> {
        Ok(Buffer { ty: ty.clone(), bytes: vec![0; ty.bytes()], _lease: self.memory.lease(ty.bytes()) })
    }

    fn upload(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        buffer.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(&buffer.bytes[offset..offset + into.len()]);
        Ok(())
    }

    fn compile(&mut self, program: Program) -> Result<Program, Error> {
        self.script.at(Point::Compile, 0)?;
        self.check_rows(Point::Compile, &program)?;
        Ok(program)
    }

    fn run(
        &mut self,
        program: &mut Program,
        arguments: &mut [Bound<'_, Buffer>],
        outputs: &mut [&mut Buffer],
    ) -> Result<(), Error> {
        let step = ends_step(program);
        self.runs += 1;
        self.steps += u64::from(step);
        self.script.at(Point::Run, self.runs)?;
        if step {
            self.script.at(Point::Step, self.steps)?;
        }
        self.check_rows(Point::Run, program)?;
        let tensors: Result<Vec<Tensor>, _> =
            arguments.iter().map(|arg| Tensor::from_bytes(&arg.get().ty, &arg.get().bytes)).collect();
        let outcome = tensors
            .and_then(|tensors| reference::run(program, &tensors, Rounding::Storage))
            .map_err(|error| Error::invalid_argument(error.to_string()).untouched())?;
        let after = self.script.after(Point::Run, self.runs);
        let after = after.or_else(|| self.script.after(Point::Step, self.steps).filter(|_| step));

        let states = arguments.iter_mut().filter_map(Bound::get_mut);
        let results = outcome.states.iter().map(|(_, tensor)| tensor).chain(&outcome.outputs);
        let buffers = states.chain(outputs.iter_mut().map(|buffer| &mut **buffer));
        let half = outcome.states.len() / 2;
        for (i, (buffer, tensor)) in buffers.zip(results).enumerate() {
            match after {
                Some("half") if i >= half => {
                    return Err(Error::internal("made up for a test: failed with half of the state written"));
                }
                Some(how) => buffer.bytes = spoilt(tensor, how),
                None => buffer.bytes = tensor.to_bytes(),
            }
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<MemoryInfo, Error> {
        let info = self.memory.info();
        Ok(match self.script.memory() {
            Some(lie) => MemoryInfo { total: lie, available: lie, ..info },
            None => info,
        })
    }

    fn reset_peak(&mut self) -> Result<(), Error> {
        self.memory.reset_peak();
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// The result, one percent too large or no number at all.
fn spoilt(tensor: &Tensor, how: &str) -> Vec<u8> {
    let mut bytes = tensor.to_bytes();
    if tensor.ty().dtype == DType::F32 && how != "half" {
        for word in bytes.as_chunks_mut::<4>().0 {
            let value = f32::from_le_bytes(*word);
            *word = if how == "nan" { f32::NAN } else { value * 1.01 }.to_le_bytes();
        }
    }
    bytes
}

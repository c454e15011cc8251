//! One open device with its buffers and compiled programs: the checks between the host and a plugin's code.

use std::collections::HashMap;

use crate::abi::{MemoryInfo, PROPERTY_ASYNCHRONOUS};
use crate::program::{self, DType, Role, TensorType};

use super::guard::guard;
use super::poison::Contents;
use super::slab::Slab;
use super::{Bound, Device, Error, Extension, HostBytes, JsonObject};

/// See the module. To be [closed](Session::close), not dropped.
pub(super) struct Session<D: Device> {
    buffers: Slab<Entry<D::Buffer>>,
    programs: Slab<Compiled<D::Compiled>>,
    device: D,
}

struct Entry<B> {
    buffer: B,
    ty: TensorType,
    read_only: bool,
    contents: Contents,
}

struct Compiled<C> {
    compiled: C,
    arguments: Vec<Argument>,
    outputs: Vec<Argument>,
}

/// What a program says about one argument or output.
struct Argument {
    what: String,
    written: bool,
    ty: TensorType,
}

impl<D: Device> Session<D> {
    pub(super) fn new(device: D) -> Session<D> {
        Session { buffers: Slab::new(), programs: Slab::new(), device }
    }

    pub(super) fn ops(&mut self) -> Result<Vec<&'static str>, Error> {
        let ops = guard("ops", || Ok(self.device.ops()))?;
        for name in &ops {
            check_op_name(name)?;
        }
        Ok(ops)
    }

    pub(super) fn properties(&mut self) -> Result<JsonObject, Error> {
        let mut properties = guard("properties", || Ok(self.device.properties()))?;
        properties.insert(PROPERTY_ASYNCHRONOUS.into(), D::ASYNCHRONOUS.into());
        Ok(properties)
    }

    pub(super) fn allocate(&mut self, dtype: &str, shape: &[u64]) -> Result<u64, Error> {
        let ty = tensor_type(dtype, shape)?;
        let buffer = guard("allocate", || self.device.allocate(&ty))?;
        let contents = Contents::new();
        Ok(self.buffers.insert(Entry { buffer, ty, read_only: false, contents }))
    }

    pub(super) fn adopt(&mut self, dtype: &str, shape: &[u64], memory: HostBytes) -> Result<u64, Error> {
        let ty = tensor_type(dtype, shape)?;
        let length = memory.as_slice().len();
        if length != ty.bytes() {
            return Err(argument(format!("{ty} takes {} bytes; the memory lent has {length}", ty.bytes())));
        }
        let buffer = guard("adopt", || self.device.adopt(&ty, memory))?;
        let contents = Contents::new();
        Ok(self.buffers.insert(Entry { buffer, ty, read_only: true, contents }))
    }

    pub(super) fn upload(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let entry = self.buffers.get_mut(handle).ok_or_else(|| no_buffer(handle))?;
        if entry.read_only {
            return Err(argument(format!("buffer {handle} is memory that the host lent and is not written")));
        }
        let offset = range(&entry.ty, offset, bytes.len())?;
        let result = guard("upload", || self.device.upload(&mut entry.buffer, offset, bytes));
        match &result {
            Ok(()) => entry.contents.written(offset, offset + bytes.len(), entry.ty.bytes()),
            Err(error) if !error.state_untouched() => {
                entry.contents.poison(error);
                self.poison_unfinished(error);
            }
            Err(_) => {}
        }
        result
    }

    pub(super) fn download(&mut self, handle: u64, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let entry = self.buffers.get_mut(handle).ok_or_else(|| no_buffer(handle))?;
        let offset = range(&entry.ty, offset, into.len())?;
        entry.contents.check().map_err(|why| argument(format!("buffer {handle} {why}")))?;
        let result = guard("download", || self.device.download(&entry.buffer, offset, into));
        self.late(result)
    }

    pub(super) fn free(&mut self, handle: u64) -> Result<(), Error> {
        let entry = self.buffers.remove(handle).ok_or_else(|| no_buffer(handle))?;
        guard("free", || {
            drop(entry);
            Ok(())
        })
    }

    pub(super) fn compile(&mut self, text: &str) -> Result<(u64, JsonObject), Error> {
        let program = guard("parsing the program", || Ok(program::text::parse(text)?))?;
        let arguments = program.args().iter().map(|arg| Argument {
            what: format!("{} {:?}", arg.role.word(), arg.name),
            written: arg.role == Role::State,
            ty: program.ty(arg.value).clone(),
        });
        let arguments = arguments.collect();
        let outputs = program.outputs().iter().map(|output| Argument {
            what: format!("output {:?}", output.name),
            written: true,
            ty: program.ty(output.value).clone(),
        });
        let outputs = outputs.collect();
        let device = &mut self.device;
        let (compiled, details) = guard("compile", || {
            let compiled = device.compile(program)?;
            let details = device.details(&compiled);
            Ok((compiled, details))
        })?;
        Ok((self.programs.insert(Compiled { compiled, arguments, outputs }), details))
    }

    pub(super) fn release(&mut self, handle: u64) -> Result<(), Error> {
        let compiled = self.programs.remove(handle).ok_or_else(|| no_program(handle))?;
        guard("release", || {
            drop(compiled);
            Ok(())
        })
    }

    pub(super) fn run(&mut self, handle: u64, arguments: &[u64], outputs: &[u64]) -> Result<(), Error> {
        let program = self.programs.get_mut(handle).ok_or_else(|| no_program(handle))?;
        check_bindings(program, &self.buffers, arguments, outputs).map_err(Error::untouched)?;

        // Those that are written leave the table for the run, so that the others can be borrowed from it.
        let slots = program.arguments.iter().zip(arguments).chain(program.outputs.iter().zip(outputs));
        let written = slots.filter(|(slot, _)| slot.written).map(|(_, &handle)| handle);
        let mut taken: Vec<(u64, Entry<D::Buffer>)> =
            written.map(|handle| (handle, self.buffers.take(handle).expect("checked above"))).collect();

        let buffers = &self.buffers;
        let mut writable = taken.iter_mut().map(|(_, entry)| &mut entry.buffer);
        let mut bound: Vec<Bound<'_, D::Buffer>> = Vec::with_capacity(arguments.len());
        for (slot, &handle) in program.arguments.iter().zip(arguments) {
            bound.push(match slot.written {
                true => Bound::Mut(writable.next().expect("one for each state")),
                false => Bound::Shared(&buffers.get(handle).expect("checked above").buffer),
            });
        }
        let mut results: Vec<&mut D::Buffer> = writable.collect();
        let (device, compiled) = (&mut self.device, &mut program.compiled);
        let result = guard("run", || device.run(compiled, &mut bound, &mut results));

        let states = taken.len() - outputs.len();
        for (i, (handle, mut entry)) in taken.into_iter().enumerate() {
            match &result {
                Ok(()) => entry.contents.run_over(i >= states, !D::ASYNCHRONOUS),
                Err(error) if !error.state_untouched() => entry.contents.poison(error),
                Err(_) => {}
            }
            self.buffers.put_back(handle, entry);
        }
        self.late(result)
    }

    pub(super) fn memory(&mut self) -> Result<MemoryInfo, Error> {
        guard("memory", || self.device.memory())
    }

    pub(super) fn reset_peak(&mut self) -> Result<(), Error> {
        guard("reset_peak", || self.device.reset_peak())
    }

    pub(super) fn synchronize(&mut self) -> Result<(), Error> {
        let result = guard("synchronize", || self.device.synchronize());
        if result.is_ok() {
            self.buffers.entries_mut().for_each(|entry| entry.contents.finished());
        }
        self.late(result)
    }

    pub(super) fn extension(&mut self, name: &str) -> Result<Option<Extension>, Error> {
        guard("extension", || Ok(self.device.extension(name)))
    }

    /// An error of a call that waits may be that of any run since the last `synchronize`.
    fn late<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && !error.state_untouched()
        {
            self.poison_unfinished(error);
        }
        result
    }

    /// Drops all, the device last. A panic in one drop does not keep the others from being dropped.
    pub(super) fn close(self) {
        let Session { buffers, programs, device } = self;
        buffers.into_entries().for_each(|entry| drop_quietly(entry.buffer));
        programs.into_entries().for_each(|program| drop_quietly(program.compiled));
        drop_quietly(device);
    }

    fn poison_unfinished(&mut self, error: &Error) {
        for entry in self.buffers.entries_mut().filter(|entry| entry.contents.is_unfinished()) {
            entry.contents.poison(error);
        }
    }
}

fn drop_quietly<T>(value: T) {
    // There is no one left to tell.
    let _ = guard("drop", || {
        drop(value);
        Ok(())
    });
}

/// Everything that a device may rely on when it gets its buffers.
fn check_bindings<B, C>(
    program: &Compiled<C>,
    buffers: &Slab<Entry<B>>,
    arguments: &[u64],
    outputs: &[u64],
) -> Result<(), Error> {
    for (what, want, have) in [
        ("arguments", program.arguments.len(), arguments.len()),
        ("outputs", program.outputs.len(), outputs.len()),
    ] {
        if want != have {
            return Err(argument(format!("the program has {want} {what}; {have} buffers are bound")));
        }
    }
    // For each buffer, what it is bound to and whether that writes it.
    let mut seen: HashMap<u64, &Argument> = HashMap::with_capacity(arguments.len() + outputs.len());
    let slots = program.arguments.iter().zip(arguments).map(|(slot, handle)| (slot, handle, true));
    let slots = slots.chain(program.outputs.iter().zip(outputs).map(|(slot, handle)| (slot, handle, false)));
    for (slot, &handle, is_read) in slots {
        let what = &slot.what;
        let entry = buffers
            .get(handle)
            .ok_or_else(|| argument(format!("{what}: buffer {handle} was freed or never was")))?;
        if entry.ty != slot.ty {
            return Err(argument(format!("{what} is {}; its buffer {handle} is {}", slot.ty, entry.ty)));
        }
        if slot.written && entry.read_only {
            return Err(argument(format!(
                "{what} is written; its buffer {handle} is memory that the host lent"
            )));
        }
        if is_read {
            entry.contents.check().map_err(|why| argument(format!("{what}: its buffer {handle} {why}")))?;
        }
        if let Some(other) = seen.insert(handle, slot)
            && (slot.written || other.written)
        {
            return Err(argument(format!("buffer {handle} is bound to both {} and {what}", other.what)));
        }
    }
    Ok(())
}

fn argument(message: String) -> Error {
    Error::invalid_argument(message).untouched()
}

fn no_buffer(handle: u64) -> Error {
    argument(format!("there is no buffer {handle}: it was freed or never was"))
}

fn no_program(handle: u64) -> Error {
    argument(format!("there is no compiled program {handle}: it was released or never was"))
}

fn tensor_type(dtype: &str, shape: &[u64]) -> Result<TensorType, Error> {
    let dtype = DType::from_name(dtype)
        .ok_or_else(|| Error::unsupported(format!("this plugin does not know the element type {dtype:?}")))?;
    let shape: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let shape = shape.ok_or_else(|| argument("a dimension is larger than memory can be addressed".into()))?;
    let ty = TensorType { dtype, shape };
    ty.check().map_err(argument)?;
    Ok(ty)
}

/// The offset, if so many bytes from there on are inside a tensor of that type.
fn range(ty: &TensorType, offset: u64, length: usize) -> Result<usize, Error> {
    let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(length));
    match end {
        Some(end) if end <= ty.bytes() => Ok(offset as usize),
        _ => Err(argument(format!(
            "{length} bytes from byte {offset} on are not all inside the buffer: {ty} has {} bytes",
            ty.bytes()
        ))),
    }
}

/// A name that no row of the table has would silently never be used.
fn check_op_name(name: &str) -> Result<(), Error> {
    let (op, result) = match name.split_once('.') {
        Some((op, result)) => (op, Some(result)),
        None => (name, None),
    };
    let def = program::Op::from_name(op).map(|op| op.def());
    let known = def.is_some_and(|def| {
        def.class == program::Class::Composite
            && result.is_none_or(|result| {
                def.results.iter().any(|slot| slot.when.is_some() && slot.name == result)
            })
    });
    match known {
        true => Ok(()),
        false => {
            Err(Error::internal(format!("the plugin claims {name:?}, which is no composite op of the table")))
        }
    }
}

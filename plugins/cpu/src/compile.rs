//! Programs with their plan, ready to run.

use std::marker::PhantomData;
use std::ops::Range;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::{Copy, Plan, PlanOptions, Storage, View, plan};
use finetune_plugin_api::program::{DType, Program};

use crate::ops::{self, Step};
use crate::storage::{ALIGN, Bytes, Dst, Src};

/// Bytes that a constant takes.
const CONSTANT: usize = 8;

/// A program and where its values live.
pub struct Executable {
    program: Program,
    plan: Plan,
    constants: Bytes,
    /// For every step and operand: whether the step writes storage that the operand reads.
    shared: Vec<Vec<bool>>,
}

impl Executable {
    /// Plans a program. Every view of the plan is checked to lie within its storage: the kernels rely on it.
    pub fn new(program: Program, options: &PlanOptions) -> Result<Executable, Error> {
        let plan = plan(&program, options);
        let constants = constants(&plan)?;
        let executable = Executable { shared: shared(&program, &plan), program, plan, constants };
        let copies = executable.plan.copies.iter().map(|copy| (&copy.from, copy.to));
        for view in executable.plan.views.iter().flatten().chain(copies.clone().map(|(from, _)| from)) {
            executable.check(view.storage, span(view))?;
        }
        for (from, to) in copies {
            let bytes = from.shape.iter().product::<usize>() * from.declared.size();
            executable.check(to, range_in(to, 0..bytes))?;
        }
        Ok(executable)
    }

    /// Bytes that a run needs besides its buffers: values, and behind them scratch memory.
    pub fn arena_bytes(&self) -> usize {
        self.plan.arena_bytes.next_multiple_of(ALIGN) + self.plan.workspace_bytes.next_multiple_of(ALIGN)
    }

    fn check(&self, storage: Storage, bytes: Range<usize>) -> Result<(), Error> {
        if bytes.end <= self.size(storage) {
            return Ok(());
        }
        Err(Error::internal(format!(
            "the plan has a view of bytes {bytes:?} outside of its storage {storage:?}"
        )))
    }

    fn size(&self, storage: Storage) -> usize {
        match storage {
            Storage::Argument(i) => self.program.ty(self.program.args()[i].value).bytes(),
            Storage::Output(i) => self.program.ty(self.program.outputs()[i].value).bytes(),
            Storage::Arena(_) => self.plan.arena_bytes,
            Storage::Constant(_) => CONSTANT,
        }
    }

    /// Runs the program on bound buffers.
    pub fn run(&self, mut binding: Binding) -> Result<(), Error> {
        self.check_binding(&binding)?;
        let scratch =
            binding.scratch(self.plan.arena_bytes.next_multiple_of(ALIGN), self.plan.workspace_bytes);
        for (number, &node) in self.plan.steps.iter().enumerate() {
            let node = &self.program.nodes()[node];
            let view =
                |value: &finetune_plugin_api::program::ValueId| self.plan.views[value.index()].as_ref();
            let src =
                node.operands.iter().zip(&self.shared[number]).filter_map(|(operand, shared)| {
                    Some(binding.src(&self.constants, view(operand)?, *shared))
                });
            let dst = node.results.iter().map(|result| {
                let view = view(result)?;
                Some(binding.dst(view.storage, view.declared, &view.shape))
            });
            let (src, dst) = (src.collect(), dst.collect());
            ops::execute(&mut Step { op: node.op, attrs: &node.attrs, src, dst, work: &mut *scratch })?;
        }
        for Copy { from, to } in &self.plan.copies {
            let dst = binding.dst(*to, from.declared, &from.shape);
            ops::copy(&binding.src(&self.constants, from, false), &dst);
        }
        Ok(())
    }

    fn check_binding(&self, binding: &Binding) -> Result<(), Error> {
        let arguments = (0..self.program.args().len()).map(Storage::Argument);
        let outputs = (0..self.program.outputs().len()).map(Storage::Output);
        let same = |have: &[Piece], want: Vec<usize>| {
            have.len() == want.len() && have.iter().zip(want).all(|(piece, bytes)| piece.bytes == bytes)
        };
        let fits = same(&binding.arguments, arguments.map(|storage| self.size(storage)).collect())
            && same(&binding.outputs, outputs.map(|storage| self.size(storage)).collect())
            && self.arena_bytes() <= binding.arena.bytes;
        if fits {
            return Ok(());
        }
        Err(Error::invalid_argument("the buffers bound to the program are not of its types").untouched())
    }
}

/// The bytes of its storage that a view touches, or of the arena.
fn span(view: &View) -> Range<usize> {
    let reach: usize =
        view.shape.iter().zip(&view.strides).map(|(length, stride)| (length - 1) * stride).sum();
    let size = view.stored.size();
    range_in(view.storage, view.start * size..(view.start + reach + 1) * size)
}

fn range_in(storage: Storage, range: Range<usize>) -> Range<usize> {
    match storage {
        Storage::Arena(offset) => offset + range.start..offset + range.end,
        _ => range,
    }
}

fn overlap(a: &View, b: &View) -> bool {
    let same = match (a.storage, b.storage) {
        (Storage::Arena(_), Storage::Arena(_)) => true,
        (a, b) => a == b,
    };
    let (a, b) = (span(a), span(b));
    same && a.start < b.end && b.start < a.end
}

fn shared(program: &Program, plan: &Plan) -> Vec<Vec<bool>> {
    let of_step = |&step: &usize| {
        let node = &program.nodes()[step];
        let results: Vec<&View> =
            node.results.iter().filter_map(|result| plan.views[result.index()].as_ref()).collect();
        let operand = |view: &View| results.iter().any(|result| overlap(view, result));
        node.operands.iter().map(|value| plan.views[value.index()].as_ref().is_some_and(operand)).collect()
    };
    plan.steps.iter().map(of_step).collect()
}

fn constants(plan: &Plan) -> Result<Bytes, Error> {
    let mut bytes = Bytes::zeroed(plan.constants.len() * CONSTANT, "the constants of a program")?;
    for (place, &(dtype, value)) in bytes.as_mut_slice().chunks_mut(CONSTANT).zip(&plan.constants) {
        place[..dtype.size()].copy_from_slice(&dtype.element(value));
    }
    Ok(bytes)
}

/// A buffer as it is bound.
#[derive(Clone, Copy)]
struct Piece {
    ptr: *mut u8,
    bytes: usize,
    writable: bool,
}

/// The memory that a run uses. It borrows all of it for the run.
pub struct Binding<'a> {
    arguments: Vec<Piece>,
    outputs: Vec<Piece>,
    arena: Piece,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: the pieces are borrowed for `'a`, those that are written exclusively.
#[allow(unsafe_code)]
unsafe impl Send for Binding<'_> {}

impl<'a> Binding<'a> {
    pub fn new(arena: &'a mut [u8]) -> Binding<'a> {
        Binding { arguments: Vec::new(), outputs: Vec::new(), arena: Piece::of(arena), lifetime: PhantomData }
    }

    /// Binds the next argument, to be read.
    pub fn argument(&mut self, bytes: &'a [u8]) {
        let ptr = bytes.as_ptr().cast_mut();
        self.arguments.push(Piece { ptr, bytes: bytes.len(), writable: false });
    }

    /// Binds the next argument, a state.
    pub fn state(&mut self, bytes: &'a mut [u8]) {
        self.arguments.push(Piece::of(bytes));
    }

    /// Binds the next output.
    pub fn output(&mut self, bytes: &'a mut [u8]) {
        self.outputs.push(Piece::of(bytes));
    }

    fn piece(&self, storage: Storage) -> (*mut u8, bool) {
        let (piece, offset) = match storage {
            Storage::Argument(i) => (self.arguments[i], 0),
            Storage::Output(i) => (self.outputs[i], 0),
            Storage::Arena(offset) => (self.arena, offset),
            Storage::Constant(_) => (Piece { ptr: std::ptr::null_mut(), bytes: 0, writable: false }, 0),
        };
        (piece.ptr.wrapping_add(offset), piece.writable)
    }

    /// The part of the arena behind the values.
    #[allow(unsafe_code)]
    fn scratch(&mut self, offset: usize, bytes: usize) -> &'a mut [f32] {
        // SAFETY: `check_binding` has checked that the arena is large enough; it is aligned, initialised and
        // borrowed exclusively, and no value lies behind `offset`.
        unsafe { std::slice::from_raw_parts_mut(self.arena.ptr.add(offset).cast(), bytes / size_of::<f32>()) }
    }

    #[allow(unsafe_code)]
    fn src<'b>(&'b self, constants: &'b Bytes, view: &View, shared: bool) -> Src<'b> {
        let base = match view.storage {
            Storage::Constant(i) => constants.as_slice()[i * CONSTANT..].as_ptr(),
            storage => self.piece(storage).0.cast_const(),
        };
        // SAFETY: `Executable::new` has checked that the view lies in its storage and `check_binding` that
        // what is bound is as large; buffers are aligned for their type. `shared` is computed from the plan.
        unsafe {
            let ptr = base.add(view.start * view.stored.size());
            Src::new(ptr, view.stored, &view.shape, &view.strides, shared)
        }
    }

    #[allow(unsafe_code)]
    fn dst<'b>(&'b self, storage: Storage, dtype: DType, shape: &[usize]) -> Dst<'b> {
        let (ptr, writable) = self.piece(storage);
        assert!(writable, "the plan writes an argument that is bound to be read");
        // SAFETY: as for `src`; results are whole, and the memory is bound to be written.
        unsafe { Dst::new(ptr, dtype, shape) }
    }
}

impl Piece {
    fn of(bytes: &mut [u8]) -> Piece {
        Piece { ptr: bytes.as_mut_ptr(), bytes: bytes.len(), writable: true }
    }
}

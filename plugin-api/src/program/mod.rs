//! The language of programs.
//!
//! A [`Program`] is a flat, ordered list of typed ops over tensors of static shape. Its arguments are
//! *inputs* (a batch), *parameters* (read only) and *state* (buffers that live on the device and are updated
//! in place); it yields *outputs*. Every value is defined once. Constants are scalars; everything larger is a
//! buffer.
//!
//! Reads of a state argument anywhere in a program give the value from before the run; the `update`s take
//! effect together when the run ends. An implementation may write into the state's own storage as soon as
//! nothing reads the old value any more.
//!
//! The [text form](text) is what crosses the plugin boundary. The ops are rows of one [table].

mod attention;
mod attrs;
mod builder;
mod error;
pub mod lower;
pub mod ops;
pub mod page;
pub mod table;
pub mod text;
mod types;

pub use attention::AttentionShape;
pub use attrs::{AttrDef, AttrKind, AttrValue, Attrs, Default};
pub use builder::Builder;
pub use error::ProgramError;
pub use lower::{NativeOps, lower};
pub use table::{Class, Op, OpDef, Slot};
pub use types::{DType, MAX_RANK, TensorType, rows_and_width};

/// Names one value of one program: the `n` of `%n` in its text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// The position of this value in [`Program::types`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for ValueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// What a program's argument is to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Given anew for every run: a batch, a step number, a learning rate.
    Input,
    /// Read only and the same for every run: frozen weights.
    Param,
    /// Lives on the device across runs and may be updated: trained tensors, moments, gradients, caches.
    State,
}

impl Role {
    /// The word for it in the text form.
    pub fn word(self) -> &'static str {
        match self {
            Role::Input => "input",
            Role::Param => "param",
            Role::State => "state",
        }
    }
}

/// One argument of a program. Buffers are bound to arguments in the order of [`Program::args`].
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Its role.
    pub role: Role,
    /// Its name, unique among the program's arguments.
    pub name: String,
    /// The value by which ops read it.
    pub value: ValueId,
}

/// One op applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Which op.
    pub op: Op,
    /// What it reads, in the order of the op's table row; an operand that an attribute switches off is absent.
    pub operands: Vec<ValueId>,
    /// Its attributes, complete: defaults are filled in.
    pub attrs: Attrs,
    /// What it defines, in the order of the op's table row.
    pub results: Vec<ValueId>,
}

/// `state` takes the value `value` when the run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// A state argument.
    pub state: ValueId,
    /// Any value of the same type.
    pub value: ValueId,
}

/// A value that the host reads after the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name, unique among the program's outputs.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A valid program. Made by a [`Builder`] or by [`text::parse`]; both check every rule of the language, so
/// whoever holds a `Program` need not check again.
#[derive(Clone, Debug, PartialEq, std::default::Default)]
pub struct Program {
    types: Vec<TensorType>,
    args: Vec<Arg>,
    nodes: Vec<Node>,
    updates: Vec<Update>,
    outputs: Vec<Output>,
}

impl Program {
    /// The type of every value, by [`ValueId::index`].
    pub fn types(&self) -> &[TensorType] {
        &self.types
    }

    /// The type of one value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.types[value.index()]
    }

    /// The arguments; they define the values `%0`, `%1`, ... in this order.
    pub fn args(&self) -> &[Arg] {
        &self.args
    }

    /// The ops, in an order in which every operand is defined before it is read.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The updates of state.
    pub fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// The outputs.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The argument of that name.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|arg| arg.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// For every value, whether anything reads it (an op, an update or an output). A result that nothing
    /// reads need not be computed.
    pub fn used(&self) -> Vec<bool> {
        let mut used = vec![false; self.types.len()];
        for value in self.nodes.iter().flat_map(|node| &node.operands) {
            used[value.index()] = true;
        }
        for update in &self.updates {
            used[update.value.index()] = true;
        }
        for output in &self.outputs {
            used[output.value.index()] = true;
        }
        used
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&text::print(self))
    }
}

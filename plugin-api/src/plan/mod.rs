//! Where the values of a program live: which are views of others, which share storage, which are written
//! straight into outputs and state, and where the rest lies in one arena.
//!
//! A back end calls [`plan`] when it compiles and follows the [`Plan`]. The host calls [`peak`] with the
//! [`PlanOptions`] that the device publishes in its properties and so knows, before anything is allocated,
//! the memory that the back end will need: both run the same code.
//!
//! # For authors
//!
//! Say in [`PlanOptions`] what your kernels can do. The defaults promise nothing: every result has storage of
//! its own, contiguous and in its declared type; only `reshape` is a view. Then:
//!
//! 1. allocate an arena of [`Plan::arena_bytes`] (the arena of a device may serve all its programs, grown to
//!    the largest) and a workspace of [`Plan::workspace_bytes`];
//! 2. for each run execute the nodes [`Plan::steps`] in order: operands and results are found through
//!    [`Plan::views`]; a result without a view is not needed and must not be written. An op that moves
//!    elements only (`reshape`, `broadcast`, ...) and is a step copies its operand to its result;
//! 3. then make the [`Plan::copies`] in order.
//!
//! A back end whose memory an allocator gives follows a [`Schedule`] instead: which ops to run, and after which
//! of them a value may be let go. [`Uses`] says who makes and who reads a value, for one that does ops together.
//!
//! Results of steps are always whole, contiguous and of their declared type.

mod offsets;
mod options;
mod place;
mod schedule;
mod uses;
mod view;

pub use options::{PlanOptions, Term, in_place_pairs};
pub use schedule::{Schedule, Step, needed, reads, results, schedule, schedule_fused, updated};
pub use uses::Uses;
pub use view::View;

use crate::program::{DType, Program};

/// Storage that views look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// The buffer bound to the argument of this number.
    Argument(usize),
    /// The buffer of the output of this number.
    Output(usize),
    /// The arena, from this byte on.
    Arena(usize),
    /// The scalar of this number in [`Plan::constants`].
    Constant(usize),
}

/// A copy at the end of a run, converting if the view's stored type is not the target's.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// What is read.
    pub from: View,
    /// What is written whole, from its first element on, in the view's `declared` type.
    pub to: Storage,
}

/// Where everything lives and what is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// For every value, by [`ValueId::index`](crate::program::ValueId::index): where it is; `None` if it is
    /// not needed.
    pub views: Vec<Option<View>>,
    /// The nodes to execute, in order. Views, constants and what nothing needs are left out.
    pub steps: Vec<usize>,
    /// What remains to be copied after the last step, in order.
    pub copies: Vec<Copy>,
    /// Scalars that views look into.
    pub constants: Vec<(DType, f64)>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of scratch memory that the most demanding step may use.
    pub workspace_bytes: usize,
}

/// The memory of one program, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeakReport {
    /// Buffers bound to arguments: inputs, parameters and state.
    pub arguments: usize,
    /// Buffers of outputs.
    pub outputs: usize,
    /// The arena.
    pub arena: usize,
    /// Scratch memory.
    pub workspace: usize,
}

impl PeakReport {
    /// All of it.
    pub fn total(&self) -> usize {
        (self.arguments + self.outputs + self.arena).saturating_add(self.workspace)
    }
}

/// Plans a program's memory.
pub fn plan(program: &Program, options: &PlanOptions) -> Plan {
    place::plan(program, options)
}

/// The memory that a back end with these options needs to run a program.
///
/// Programs that run in turn on one device share an arena and a workspace: the most of each counts once.
pub fn peak(program: &Program, options: &PlanOptions) -> PeakReport {
    let plan = plan(program, options);
    PeakReport {
        arguments: program.args().iter().map(|arg| program.ty(arg.value).bytes()).sum(),
        outputs: program.outputs().iter().map(|output| program.ty(output.value).bytes()).sum(),
        arena: plan.arena_bytes,
        workspace: plan.workspace_bytes,
    }
}

#[cfg(test)]
mod tests;

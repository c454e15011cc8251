//! The reference interpreter: slow and obvious, in f64. It is the meaning of the language: plugins,
//! decompositions and gradients are held against it.
//!
//! Every op has a function here that follows its row in the [table](crate::program::table), composites
//! included: their decompositions are checked against these, so neither can be wrong alone.

mod activation;
mod attention;
mod call;
mod elementwise;
mod index;
mod loss;
mod matmul;
mod norm;
mod optim;
mod quant;
mod random;
mod reduce;
mod rope;
mod shape;
mod softmax;
mod special;
mod tensor;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub(crate) use call::{Call, evaluate};
pub use elementwise::u32_binary;
pub use random::philox;
pub use tensor::{Tensor, Values, round};

use crate::program::{Node, Program, Role, TensorType, ValueId};

/// When floats are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Never: everything is in f64. For finite differences and for the value a plugin's should be near.
    None,
    /// Each result of each op is rounded to its element type, to nearest even.
    Storage,
}

/// Why a program was not run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// A tensor is not what its type says.
    #[error("a tensor {ty}: {message}")]
    Tensor {
        /// The type.
        ty: TensorType,
        /// What does not fit it.
        message: String,
    },
    /// Another number of arguments.
    #[error("the program takes {expected} arguments; {given} are given")]
    Count {
        /// How many it has.
        expected: usize,
        /// How many came.
        given: usize,
    },
    /// An argument of another type.
    #[error("argument {name:?} is given as {given}; the program takes {expected}")]
    Type {
        /// The argument.
        name: String,
        /// Its type in the program.
        expected: TensorType,
        /// The tensor's.
        given: TensorType,
    },
    /// An argument that is not given.
    #[error("argument {0:?} is missing")]
    Missing(String),
    /// A name that the program does not have, or given twice.
    #[error("{0:?} is no argument of the program, or is given twice")]
    Unknown(String),
}

/// What a run gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The outputs, in the program's order.
    pub outputs: Vec<Tensor>,
    /// Every state argument with its value after the run, updated or not, in the order of the arguments.
    pub states: Vec<(ValueId, Tensor)>,
}

impl Outcome {
    /// The output of that name.
    pub fn output(&self, program: &Program, name: &str) -> Option<&Tensor> {
        let at = program.outputs().iter().position(|output| output.name == name)?;
        self.outputs.get(at)
    }

    /// The state argument of that name, after the run.
    pub fn state(&self, program: &Program, name: &str) -> Option<&Tensor> {
        let value = program.arg(name)?.value;
        self.states.iter().find(|(state, _)| *state == value).map(|(_, tensor)| tensor)
    }
}

/// Runs a program with its arguments in order.
///
/// # Errors
/// The arguments are not those of the program.
pub fn run(program: &Program, args: &[Tensor], rounding: Rounding) -> Result<Outcome, ReferenceError> {
    run_watched(program, args, rounding, &mut |_, _| {})
}

/// Runs a program with its arguments by name, in any order.
///
/// # Errors
/// The arguments are not those of the program.
pub fn run_named<N: AsRef<str>>(
    program: &Program,
    args: &[(N, Tensor)],
    rounding: Rounding,
) -> Result<Outcome, ReferenceError> {
    let mut in_order = Vec::with_capacity(args.len());
    for arg in program.args() {
        let given = args.iter().find(|(name, _)| name.as_ref() == arg.name);
        in_order.push(given.ok_or_else(|| ReferenceError::Missing(arg.name.clone()))?.1.clone());
    }
    for (i, (name, _)) in args.iter().enumerate() {
        let name = name.as_ref();
        if program.arg(name).is_none() || args[..i].iter().any(|(earlier, _)| earlier.as_ref() == name) {
            return Err(ReferenceError::Unknown(name.into()));
        }
    }
    run(program, &in_order, rounding)
}

/// [`run`], with every op's results shown as they are made. The watcher may change them: so tests find out
/// what a wrong op does.
///
/// # Errors
/// The arguments are not those of the program.
pub fn run_watched(
    program: &Program,
    args: &[Tensor],
    rounding: Rounding,
    watch: &mut dyn FnMut(&Node, &mut [Tensor]),
) -> Result<Outcome, ReferenceError> {
    check_args(program, args)?;
    let mut values: Vec<Cow<'_, Tensor>> = args.iter().map(Cow::Borrowed).collect();
    for node in program.nodes() {
        let operands = node.operands.iter().map(|operand| values[operand.index()].as_ref()).collect();
        let types = node.results.iter().map(|&result| program.ty(result)).collect();
        let mut results = evaluate(node.op, &Call { attrs: &node.attrs, operands, results: types });
        if rounding == Rounding::Storage {
            results = results.into_iter().map(Tensor::rounded).collect();
        }
        watch(node, &mut results);
        // Results are numbered in the order of the ops, so each lands at its own index.
        values.extend(results.into_iter().map(Cow::Owned));
    }
    let read = |value: ValueId| values[value.index()].as_ref().clone();
    let states = program.args().iter().filter(|arg| arg.role == Role::State).map(|arg| {
        let update = program.updates().iter().find(|update| update.state == arg.value);
        (arg.value, read(update.map_or(arg.value, |update| update.value)))
    });
    Ok(Outcome {
        outputs: program.outputs().iter().map(|output| read(output.value)).collect(),
        states: states.collect(),
    })
}

fn check_args(program: &Program, args: &[Tensor]) -> Result<(), ReferenceError> {
    if args.len() != program.args().len() {
        return Err(ReferenceError::Count { expected: program.args().len(), given: args.len() });
    }
    for (arg, tensor) in program.args().iter().zip(args) {
        let expected = program.ty(arg.value);
        if tensor.ty() != expected {
            return Err(ReferenceError::Type {
                name: arg.name.clone(),
                expected: expected.clone(),
                given: tensor.ty().clone(),
            });
        }
    }
    Ok(())
}

//! Programs with their schedule, and how one runs.

use candle_core::{Device as Placed, Tensor};
use finetune_plugin_api::export::{Error, Lease, Meter};
use finetune_plugin_api::plan::{self, Schedule};
use finetune_plugin_api::program::{Op, Program};

use crate::device::failure;
use crate::ops::{self, Step};

/// A program, ready to run.
pub struct Compiled {
    program: Program,
    schedule: Schedule,
    /// Arguments that the program updates, in the order of its updates.
    updated: Vec<usize>,
}

/// A value while it lives, counted as memory in use unless it is another's.
struct Value {
    tensor: Tensor,
    _lease: Option<Lease>,
}

impl Compiled {
    pub fn new(program: Program) -> Compiled {
        let position = |value| program.args().iter().position(|arg| arg.value == value);
        let updated = program.updates().iter().filter_map(|update| position(update.state)).collect();
        Compiled { schedule: plan::schedule(&program), updated, program }
    }

    pub fn updated(&self) -> &[usize] {
        &self.updated
    }

    /// Runs the program on tensors for its arguments. Gives outputs, then new states.
    pub fn run(&self, placed: &Placed, meter: &Meter, arguments: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(self.program.types().len(), || None);
        for (arg, tensor) in self.program.args().iter().zip(arguments) {
            values[arg.value.index()] = Some(Value { tensor, _lease: None });
        }
        for step in &self.schedule.steps {
            let results = self.execute(placed, step.node, &values)?;
            let node = &self.program.nodes()[step.node];
            for (value, result) in node.results.iter().zip(results) {
                let is_needed = self.schedule.needed[value.index()];
                let Some(tensor) = result.filter(|_| is_needed) else { continue };
                let bytes = self.program.ty(*value).bytes();
                let lease = (!is_view(node.op)).then(|| meter.lease(bytes));
                values[value.index()] = Some(Value { tensor, _lease: lease });
            }
            step.dead.iter().for_each(|value| values[value.index()] = None);
        }
        let missing = || Error::internal("a result of the program was not computed");
        let result = |value: finetune_plugin_api::program::ValueId| {
            let value = values[value.index()].as_ref().ok_or_else(missing)?;
            value.tensor.contiguous().map_err(failure)
        };
        plan::results(&self.program).map(result).collect()
    }

    fn execute(
        &self,
        placed: &Placed,
        node: usize,
        values: &[Option<Value>],
    ) -> Result<Vec<Option<Tensor>>, Error> {
        let node = &self.program.nodes()[node];
        let operands = node.operands.iter().filter_map(|value| values[value.index()].as_ref());
        let step = Step {
            placed,
            op: node.op,
            attrs: &node.attrs,
            operands: operands.map(|value| &value.tensor).collect(),
            types: node.operands.iter().map(|&value| self.program.ty(value)).collect(),
            results: node.results.iter().map(|&value| self.program.ty(value)).collect(),
        };
        ops::execute(&step).map_err(|error| match error {
            ops::Failure::Candle(error) => failure(error),
            ops::Failure::Unsupported(what) => Error::unsupported(what),
        })
    }
}

/// Ops whose result may be the operand seen in another way.
fn is_view(op: Op) -> bool {
    matches!(op, Op::Reshape | Op::Permute | Op::Broadcast | Op::Slice)
}

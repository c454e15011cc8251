//! Programs with their schedule, and how one runs.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::{Device as Placed, Tensor};
use finetune_plugin_api::export::{Error, Lease, Meter};
use finetune_plugin_api::plan::{self, Schedule};
use finetune_plugin_api::program::{Op, Program, TensorType, ValueId};

use crate::device::{check_room, failure, plan_options};
use crate::fuse::Fused;
use crate::kernel;
use crate::ops::{self, Step};
use crate::profile::Profile;

/// A program, ready to run.
pub struct Compiled {
    program: Program,
    schedule: Schedule,
    fused: Fused,
    /// Arguments that the program updates, in the order of its updates.
    updated: Vec<usize>,
    /// Scalars of the program, by node: made once.
    constants: RefCell<HashMap<usize, Tensor>>,
    profile: Option<Profile>,
    /// Bytes that each node takes beside its operands and results.
    workspace: Vec<usize>,
}

/// Memory that values share: a tensor and the views of it.
struct Memory {
    owner: Owner,
    bytes: usize,
    /// What it counts as memory in use, if it is the run's or of a state that is updated.
    _lease: Option<Lease>,
}

/// Whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The run's, to be written again once nothing reads it.
    Run,
    /// The argument's of that number, to be written if the program updates it.
    Argument(usize),
    /// The compiled program's, for all runs.
    Program,
}

/// A value while it lives.
struct Value {
    tensor: Tensor,
    memory: Rc<Memory>,
}

/// What a failed run leaves behind.
pub struct Failed {
    pub error: Error,
    /// Whether state that was to be updated is no longer what it was: written in its place, or let go for its memory.
    pub touched: bool,
    /// What is left of the states, in the order of [`Compiled::updated`].
    pub states: Vec<Option<Tensor>>,
}

impl Compiled {
    pub fn new(program: Program, placed: &Placed) -> Compiled {
        let updated = plan::updated(&program);
        // Candle's products on the processor cannot be made in a place that is there.
        let fused = if kernel::on_gpu(placed) { Fused::of(&program) } else { Fused::default() };
        let schedule = plan::schedule_fused(&program, &fused.into);
        let options = plan_options(placed);
        let workspace = program.nodes().iter().map(|node| {
            let stored = |operand: usize| program.ty(node.operands[operand]).dtype;
            let needed = |result: usize| schedule.needed[node.results[result].index()];
            options.node_workspace(&program, node, &stored, &needed)
        });
        Compiled {
            workspace: workspace.collect(),
            schedule,
            fused,
            updated,
            program,
            constants: RefCell::default(),
            profile: Profile::wanted(),
        }
    }

    /// What a step reads: its node's operands; of a sum that a product goes into, those of the product and the other
    /// summand.
    fn operands(&self, node: usize) -> Cow<'_, [ValueId]> {
        let nodes = self.program.nodes();
        match self.fused.sum(node) {
            None => Cow::Borrowed(&nodes[node].operands),
            Some(sum) => [&nodes[sum.product].operands[..], &[sum.summand]].concat().into(),
        }
    }

    pub fn updated(&self) -> &[usize] {
        &self.updated
    }

    /// Runs the program on tensors for its arguments, with leases of those that it updates: these nothing else holds,
    /// so that their memory is free once the program has read them. Gives outputs, then new states; a state's memory
    /// may be that of the old one.
    pub fn run(
        &self,
        placed: &Placed,
        meter: &Meter,
        arguments: Vec<(Tensor, Option<Lease>)>,
    ) -> Result<Vec<Tensor>, Failed> {
        let run = Run { compiled: self, placed, meter, touched: Cell::new(false) };
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(self.program.types().len(), || None);
        for (number, (arg, (tensor, _lease))) in self.program.args().iter().zip(arguments).enumerate() {
            let bytes = self.program.ty(arg.value).bytes();
            let memory = Rc::new(Memory { owner: Owner::Argument(number), bytes, _lease });
            values[arg.value.index()] = Some(Value { tensor, memory });
        }
        run.all(&mut values).map_err(|error| {
            let state = |number: &usize| {
                let value = self.program.args().get(*number)?.value;
                values[value.index()].take().map(|value| value.tensor)
            };
            let states: Vec<Option<Tensor>> = self.updated.iter().map(state).collect();
            let touched = run.touched.get() || states.iter().any(Option::is_none);
            Failed { error, touched, states }
        })
    }
}

struct Run<'a> {
    compiled: &'a Compiled,
    placed: &'a Placed,
    meter: &'a Meter,
    touched: Cell<bool>,
}

impl Run<'_> {
    fn all(&self, values: &mut [Option<Value>]) -> Result<Vec<Tensor>, Error> {
        for step in &self.compiled.schedule.steps {
            self.step(step, values)?;
            step.dead.iter().for_each(|value| values[value.index()] = None);
        }
        if let Some(profile) = &self.compiled.profile {
            profile.tell();
        }
        self.results(values)
    }

    /// Outputs and new states, each in memory of its own; a state's may be that of the old one.
    fn results(&self, values: &[Option<Value>]) -> Result<Vec<Tensor>, Error> {
        let Compiled { program, updated, .. } = self.compiled;
        let missing = || Error::internal("a result of the program was not computed");
        let states = program.outputs().iter().map(|_| None).chain(updated.iter().map(|&number| Some(number)));
        let mut taken: Vec<*const Memory> = Vec::new();
        let mut results = Vec::new();
        for (value, state) in plan::results(program).zip(states) {
            let Value { tensor, memory } = values[value.index()].as_ref().ok_or_else(missing)?;
            let is_own = match memory.owner {
                Owner::Run => true,
                Owner::Argument(number) => state == Some(number),
                Owner::Program => false,
            };
            let is_whole = memory.bytes == program.ty(value).bytes() && tensor.is_contiguous();
            let memory = Rc::as_ptr(memory);
            let keeps = is_own && is_whole && !taken.contains(&memory);
            taken.push(memory);
            results.push(if keeps { tensor.clone() } else { ops::copied(tensor).map_err(failure)? });
        }
        Ok(results)
    }

    fn step(&self, step: &plan::Step, values: &mut [Option<Value>]) -> Result<(), Error> {
        let Compiled { program, schedule, .. } = self.compiled;
        let node = &program.nodes()[step.node];
        let _workspace = self.meter.lease(self.compiled.workspace[step.node]);
        let results = self.execute(step, values)?;
        for (value, result) in node.results.iter().zip(results) {
            let Some(tensor) = result.filter(|_| schedule.needed[value.index()]) else { continue };
            let memory = self.memory_of(step, &tensor, *value, values);
            values[value.index()] = Some(Value { tensor, memory });
        }
        Ok(())
    }

    /// The memory of a result: an operand's, if it lies there, or its own.
    fn memory_of(
        &self,
        step: &plan::Step,
        tensor: &Tensor,
        value: ValueId,
        values: &[Option<Value>],
    ) -> Rc<Memory> {
        let operands = self.compiled.operands(step.node);
        let mut operands = operands.iter().filter_map(|value| values[value.index()].as_ref());
        if let Some(shared) = operands.find(|value| ops::share_memory(&value.tensor, tensor)) {
            return shared.memory.clone();
        }
        let owner = match self.compiled.program.nodes()[step.node].op {
            Op::Constant => Owner::Program,
            _ => Owner::Run,
        };
        let bytes = self.compiled.program.ty(value).bytes();
        let lease = (owner == Owner::Run).then(|| self.meter.lease(bytes));
        Rc::new(Memory { owner, bytes, _lease: lease })
    }

    fn execute(&self, step: &plan::Step, values: &[Option<Value>]) -> Result<Vec<Option<Tensor>>, Error> {
        let Compiled { program, schedule, constants, updated, fused, .. } = self.compiled;
        let node = &program.nodes()[step.node];
        let operands = self.compiled.operands(step.node);
        if let Some(constant) = constants.borrow().get(&step.node) {
            return Ok(vec![Some(constant.clone())]);
        }
        let operand = |value: &ValueId| values[value.index()].as_ref();
        let free = |value: &ValueId| {
            let Some(Value { tensor, memory }) = operand(value) else { return false };
            let may_be_written = match memory.owner {
                Owner::Run => true,
                Owner::Argument(number) => updated.contains(&number),
                Owner::Program => false,
            };
            let is_last = step.dead.contains(value) && Rc::strong_count(memory) == 1;
            // A product reads all of its operands for each element that it writes.
            let is_read_again = operands.iter().filter(|other| *other == value).count() > 1;
            may_be_written && is_last && !is_read_again && tensor.is_contiguous()
        };
        let free: Vec<bool> = operands.iter().map(free).collect();
        let is_argument = |value: &ValueId| {
            operand(value).is_some_and(|value| matches!(value.memory.owner, Owner::Argument(_)))
        };
        self.check_room(step.node, &operands, &free)?;
        // It may be written, so if the op fails nobody knows what is in it.
        if free.iter().zip(&*operands).any(|(free, value)| *free && is_argument(value)) {
            self.touched.set(true);
        }
        let ran = Step {
            placed: self.placed,
            op: node.op,
            attrs: &fused.sum(step.node).map_or(node, |sum| &program.nodes()[sum.product]).attrs,
            operands: operands.iter().filter_map(operand).map(|value| &value.tensor).collect(),
            types: operands.iter().map(|&value| program.ty(value)).collect(),
            results: node.results.iter().map(|&value| program.ty(value)).collect(),
            needed: node.results.iter().map(|value| schedule.needed[value.index()]).collect(),
            free,
        };
        let timed = self.compiled.profile.as_ref().map(Profile::begin);
        let ran = match fused.sum(step.node) {
            Some(_) => ops::add_product(&ran),
            None => ops::execute(&ran),
        };
        if let (Some(profile), Some(begun)) = (&self.compiled.profile, timed) {
            profile.end(program, step.node, begun, self.placed).map_err(failure)?;
        }
        let results = ran.map_err(|error| match error {
            ops::Failure::Candle(error) => failure(error),
            ops::Failure::Unsupported(what) => Error::unsupported(what),
        })?;
        if let (Op::Constant, [Some(constant)]) = (node.op, &results[..]) {
            constants.borrow_mut().insert(step.node, constant.clone());
        }
        Ok(results)
    }

    /// Asks for the memory that a node takes before it runs: on the processor to want what is not there ends the process.
    fn check_room(&self, number: usize, operands: &[ValueId], free: &[bool]) -> Result<(), Error> {
        let Compiled { program, schedule, workspace, .. } = self.compiled;
        let node = &program.nodes()[number];
        let mut bytes = workspace[number];
        let is_view = matches!(node.op, Op::Reshape | Op::Permute | Op::Broadcast | Op::Slice | Op::Constant);
        // A result that may lie where an operand lies needs no more, at most one in each. On the processor that is what
        // the optimizer updates.
        let is_in_place = kernel::on_gpu(self.placed) || node.op == Op::AdamW;
        let mut places: Vec<&TensorType> = operands
            .iter()
            .zip(free)
            .filter(|(_, free)| **free && is_in_place)
            .map(|(value, _)| program.ty(*value))
            .collect();
        for result in node.results.iter().filter(|result| !is_view && schedule.needed[result.index()]) {
            let ty = program.ty(*result);
            match places.iter().position(|place| *place == ty) {
                Some(place) => drop(places.swap_remove(place)),
                None => bytes = bytes.saturating_add(ty.bytes()),
            }
        }
        check_room(
            self.placed,
            bytes,
            format_args!("{}, its results and what it computes with", node.op.name()),
        )
    }
}

//! Programs as closures.

use std::collections::HashMap;
use std::rc::Rc;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan;
use finetune_plugin_api::program::{Op, Program, ValueId};

use crate::mlx::{Array, Closure, Mlx};
use crate::ops::{self, Step};

/// A program, ready to run.
pub struct Compiled {
    program: Rc<Program>,
    mlx: Rc<Mlx>,
    /// Nodes whose results are needed.
    needed: Rc<Vec<bool>>,
    /// Arguments that the program updates, in the order of the closure's results behind the outputs.
    updated: Vec<usize>,
    /// Arguments that attention reads as `start` and `valid`, and the number of keys.
    spans: Vec<(usize, usize, usize)>,
    /// The closure's results in the order in which the program computes them, in parts.
    groups: Vec<Vec<usize>>,
    compile: bool,
    variants: HashMap<Facts, Closure>,
}

/// What is known of a run's arguments before it: a closure may be made for it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Facts {
    /// For each attention's start and valid (as values of the program): all rows begin at 0 and are full.
    full: bool,
}

impl Facts {
    /// Looks at the numbers that the host wrote into arguments.
    pub fn of(compiled: &Compiled, known: &[Option<&[u32]>]) -> Facts {
        let is = |argument: usize, value: usize| {
            known[argument].is_some_and(|numbers| numbers.iter().all(|&number| number as usize == value))
        };
        let spans = &compiled.spans;
        let full = spans.iter().all(|&(start, valid, keys)| is(start, 0) && is(valid, keys));
        Facts { full: full && !spans.is_empty() }
    }
}

impl Compiled {
    pub fn new(mlx: Rc<Mlx>, program: Program, compile: bool) -> Result<Compiled, Error> {
        let needed = plan::needed(&program);
        let argument = |value: ValueId| program.args().iter().position(|arg| arg.value == value);
        let mut spans = Vec::new();
        for node in program.nodes() {
            if matches!(node.op, Op::Attention | Op::AttentionGrad)
                && let (Some(start), Some(valid)) = (argument(node.operands[3]), argument(node.operands[4]))
            {
                spans.push((start, valid, program.ty(node.operands[1]).shape[1]));
            }
        }
        spans.sort_unstable();
        spans.dedup();
        let position = |update: &finetune_plugin_api::program::Update| argument(update.state);
        let updated = program.updates().iter().filter_map(position).collect();
        let groups = groups(&program);
        let (program, needed) = (Rc::new(program), Rc::new(needed));
        Ok(Compiled { program, mlx, needed, updated, spans, groups, compile, variants: HashMap::new() })
    }

    pub fn updated(&self) -> &[usize] {
        &self.updated
    }

    /// Results that are to be evaluated together, part after part.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// The graph of a run: outputs, then new states.
    pub fn apply(&mut self, facts: &Facts, arguments: &[Array]) -> Result<Vec<Array>, Error> {
        if !self.variants.contains_key(facts) {
            let closure = self.closure(facts)?;
            self.variants.insert(facts.clone(), closure);
        }
        self.variants[facts].apply(&arguments.iter().collect::<Vec<_>>())
    }

    fn closure(&self, facts: &Facts) -> Result<Closure, Error> {
        let (mlx, program, needed) = (self.mlx.clone(), self.program.clone(), self.needed.clone());
        let spans = if facts.full { self.spans.clone() } else { Vec::new() };
        let plain = Closure::new(move |arguments| trace(&mlx, &program, &needed, &spans, arguments));
        if self.compile { plain.compiled() } else { Ok(plain) }
    }
}

/// Values of a program that are worth an evaluation of their own.
const PART: usize = 16;

/// The numbers of results, outputs and then updates, sorted by where they are defined and cut into parts.
fn groups(program: &Program) -> Vec<Vec<usize>> {
    let results: Vec<ValueId> = plan::results(program).collect();
    let mut order: Vec<usize> = (0..results.len()).collect();
    order.sort_by_key(|&i| results[i]);
    let (mut groups, mut end): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for i in order {
        let at = results[i].index();
        match groups.last_mut() {
            Some(group) if at < end => group.push(i),
            _ => {
                groups.push(vec![i]);
                end = at + PART;
            }
        }
    }
    groups
}

/// Builds the graph of a program over arrays for its arguments.
fn trace(
    mlx: &Mlx,
    program: &Program,
    needed: &[bool],
    full: &[(usize, usize, usize)],
    arguments: &[Array],
) -> Result<Vec<Array>, Error> {
    let mut values: Vec<Option<Array>> = vec![None; program.types().len()];
    for (arg, array) in program.args().iter().zip(arguments) {
        values[arg.value.index()] = Some(array.clone());
    }
    let is_full = |start: ValueId, valid: ValueId, keys: usize| {
        full.iter().any(|&(s, v, k)| {
            program.args()[s].value == start && program.args()[v].value == valid && k == keys
        })
    };
    for node in program.nodes() {
        if !node.results.iter().any(|result| needed[result.index()]) {
            continue;
        }
        let operands: Vec<&Array> =
            node.operands.iter().filter_map(|value| values[value.index()].as_ref()).collect();
        let step = Step {
            mlx,
            op: node.op,
            attrs: &node.attrs,
            operands,
            types: node.operands.iter().map(|&value| program.ty(value)).collect(),
            results: node.results.iter().map(|&value| program.ty(value)).collect(),
            needed: node.results.iter().map(|value| needed[value.index()]).collect(),
            full: matches!(node.op, Op::Attention | Op::AttentionGrad)
                && is_full(node.operands[3], node.operands[4], program.ty(node.operands[1]).shape[1]),
        };
        let results = ops::execute(&step)?;
        for (value, array) in node.results.iter().zip(results) {
            values[value.index()] = array;
        }
    }
    let missing = || Error::internal("a result of the program was not computed");
    let result = |value: ValueId| {
        let array = values[value.index()].as_ref().ok_or_else(missing)?;
        // MLX's compiler makes equal scalars one and forgets that a result was among them: a copy is no scalar
        // to it.
        if program.ty(value).elements() == 1 { mlx.copy(array) } else { Ok(array.clone()) }
    };
    plan::results(program).map(result).collect()
}

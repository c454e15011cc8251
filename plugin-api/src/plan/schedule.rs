//! What a program needs and how long, for back ends that leave the placing of values to an allocator.

use std::collections::BTreeMap;

use crate::program::{Program, ValueId};

/// One op to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number in [`Program::nodes`].
    pub node: usize,
    /// Values that nothing reads any more once it has run: operands whose last reader it is.
    pub dead: Vec<ValueId>,
}

/// The ops that a program's outputs and updates need, in order, and when each value may be let go.
///
/// For a back end that runs op by op over memory that an allocator gives it; one with an arena follows
/// [`plan`](super::plan).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Ops, in order.
    pub steps: Vec<Step>,
    /// For every value, by [`ValueId::index`]: whether anything reads it.
    pub needed: Vec<bool>,
}

/// Plans which ops are run and when values die. Arguments die as well: a state whose old value is dead may be
/// written in place.
pub fn schedule(program: &Program) -> Schedule {
    schedule_fused(program, &BTreeMap::new())
}

/// The same where a back end does some ops together: `into` has the number of each node that is done within a later
/// one, which is the only reader of its result. Such a node is no step of its own and its result no value; the step
/// that does it reads what it reads ([`reads`]).
pub fn schedule_fused(program: &Program, into: &BTreeMap<usize, usize>) -> Schedule {
    let needed = needed(program);
    let mut kept = vec![false; needed.len()];
    results(program).for_each(|value| kept[value.index()] = true);
    let mut steps = Vec::new();
    for (number, node) in program.nodes().iter().enumerate().rev() {
        if into.contains_key(&number) || !node.results.iter().any(|result| needed[result.index()]) {
            continue;
        }
        let mut dead = Vec::new();
        for operand in reads(program, into, number) {
            if !std::mem::replace(&mut kept[operand.index()], true) {
                dead.push(operand);
            }
        }
        steps.push(Step { node: number, dead });
    }
    steps.reverse();
    Schedule { steps, needed }
}

/// What the step of a node reads: its operands and, in place of those that are done within it, what they read.
pub fn reads(program: &Program, into: &BTreeMap<usize, usize>, node: usize) -> Vec<ValueId> {
    let within = |value: &ValueId| {
        let mut inner = into.iter().filter(|(_, outer)| **outer == node).map(|(inner, _)| *inner);
        inner.find(|&inner| program.nodes()[inner].results.contains(value))
    };
    let mut list = Vec::new();
    let mut open: Vec<ValueId> = program.nodes()[node].operands.iter().rev().copied().collect();
    while let Some(value) = open.pop() {
        match within(&value) {
            Some(inner) => open.extend(program.nodes()[inner].operands.iter().rev()),
            None => list.push(value),
        }
    }
    list
}

/// For every value, by [`ValueId::index`]: whether outputs and updates need it.
pub fn needed(program: &Program) -> Vec<bool> {
    let mut needed = vec![false; program.types().len()];
    results(program).for_each(|value| needed[value.index()] = true);
    for node in program.nodes().iter().rev() {
        if node.results.iter().any(|result| needed[result.index()]) {
            node.operands.iter().for_each(|operand| needed[operand.index()] = true);
        }
    }
    needed
}

/// What a run gives: outputs, then new states in the order of the program's updates.
pub fn results(program: &Program) -> impl Iterator<Item = ValueId> {
    let outputs = program.outputs().iter().map(|output| output.value);
    outputs.chain(program.updates().iter().map(|update| update.value))
}

/// The numbers of the arguments that a program updates, in the order of its updates.
pub fn updated(program: &Program) -> Vec<usize> {
    let number = |state: ValueId| program.args().iter().position(|arg| arg.value == state);
    program.updates().iter().filter_map(|update| number(update.state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::text;

    /// An op that nothing needs is not run; an operand that stands twice dies once; results live on.
    #[test]
    fn values_die_behind_their_last_reader() {
        let program = text::parse(
            "finetune.program 1\n%0 = state \"s\" : f32[2]\n%1 = input \"x\" : f32[2]\n\
             %2 = mul(%1, %1) : f32[2]\n%3 = exp(%0) : f32[2]\n%4 = add(%2, %0) : f32[2]\n\
             update %0 = %4\noutput \"y\" = %4\nend\n",
        )
        .unwrap();
        let Schedule { steps, needed } = schedule(&program);
        let steps: Vec<(usize, Vec<usize>)> =
            steps.iter().map(|step| (step.node, step.dead.iter().map(|v| v.index()).collect())).collect();
        assert_eq!(steps, [(0, vec![1]), (2, vec![2, 0])]);
        assert_eq!(needed, [true, true, true, false, true]);
    }

    /// A product that is done within the sum behind it: its operands live until then, itself it is no value.
    #[test]
    fn what_is_done_together_reads_together() {
        let program = text::parse(
            "finetune.program 1\n%0 = input \"a\" : f32[2,2]\n%1 = input \"c\" : f32[2,2]\n\
             %2 = matmul(%0, %0) : f32[2,2]\n%3 = exp(%1) : f32[2,2]\n%4 = add(%3, %2) : f32[2,2]\n\
             output \"y\" = %4\nend\n",
        )
        .unwrap();
        let into = BTreeMap::from([(0, 2)]);
        let steps = schedule_fused(&program, &into).steps;
        let steps: Vec<(usize, Vec<usize>)> =
            steps.iter().map(|step| (step.node, step.dead.iter().map(|v| v.index()).collect())).collect();
        assert_eq!(steps, [(1, vec![1]), (2, vec![3, 0])]);
        let read: Vec<usize> = reads(&program, &into, 2).iter().map(|value| value.index()).collect();
        assert_eq!(read, [3, 0, 0]);
    }
}

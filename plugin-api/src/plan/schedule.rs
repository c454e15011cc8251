//! What a program needs and how long, for back ends that leave the placing of values to an allocator.

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
    let needed = needed(program);
    let mut kept = vec![false; needed.len()];
    results(program).for_each(|value| kept[value.index()] = true);
    let mut steps = Vec::new();
    for (number, node) in program.nodes().iter().enumerate().rev() {
        if !node.results.iter().any(|result| needed[result.index()]) {
            continue;
        }
        let mut dead = Vec::new();
        for &operand in &node.operands {
            if !std::mem::replace(&mut kept[operand.index()], true) {
                dead.push(operand);
            }
        }
        steps.push(Step { node: number, dead });
    }
    steps.reverse();
    Schedule { steps, needed }
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
}

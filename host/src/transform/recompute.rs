//! Values of the forward pass that are computed again for the backward pass instead of being kept until then.
//!
//! What is cheap to compute from values that are kept anyhow is not worth its memory: a norm's result while its gradient
//! needs the input, a gate's product while its gradient needs both factors, a dropped-out copy, a weight in another type.
//! (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Korthikanti et al. 2022, section 5, for the choice.)

use std::collections::BTreeMap;

use finetune_plugin_api::program::{Builder, Node, Op, Program, ProgramError, ValueId};

/// The program with such ops written a second time where the backward pass first reads their results. The first
/// `forward` ops are the forward pass.
///
/// # Errors
/// None for a program that came from a builder.
pub fn recompute(program: &Program, forward: usize) -> Result<Program, ProgramError> {
    let again = Lives::of(program, forward).again();
    if again.is_empty() {
        return Ok(program.clone());
    }
    rewrite(program, forward, &again)
}

/// Whether an op is worth computing twice. A reshape is free, and is a link to what it is of.
fn is_cheap(op: Op) -> bool {
    matches!(
        op,
        Op::RmsNorm | Op::LayerNorm | Op::Gated | Op::Activation | Op::Dropout | Op::Cast | Op::Reshape
    )
}

/// Where values are read.
struct Lives<'a> {
    program: &'a Program,
    forward: usize,
    maker: Vec<Option<usize>>,
    /// The first op of the backward pass that reads a value.
    first: Vec<Option<usize>>,
    /// The last op that does.
    last: Vec<usize>,
}

impl<'a> Lives<'a> {
    fn of(program: &'a Program, forward: usize) -> Lives<'a> {
        let count = program.types().len();
        let mut lives = Lives {
            program,
            forward,
            maker: vec![None; count],
            first: vec![None; count],
            last: vec![0; count],
        };
        for (at, node) in program.nodes().iter().enumerate() {
            node.results.iter().for_each(|result| lives.maker[result.index()] = Some(at));
            node.operands.iter().for_each(|&operand| lives.read(operand, at));
        }
        let ends = program.updates().iter().map(|update| update.value);
        for value in ends.chain(program.outputs().iter().map(|output| output.value)) {
            lives.last[value.index()] = usize::MAX;
        }
        lives
    }

    fn read(&mut self, value: ValueId, at: usize) {
        let i = value.index();
        self.last[i] = self.last[i].max(at);
        if at >= self.forward {
            self.first[i] = Some(self.first[i].map_or(at, |first| first.min(at)));
        }
    }

    /// Whether a value is there at an op of the backward pass, or can be at little cost.
    fn is_there(&self, value: ValueId, at: usize) -> bool {
        let Some(maker) = self.maker[value.index()] else { return true };
        let node = &self.program.nodes()[maker];
        node.op == Op::Constant
            || self.last[value.index()] >= at
            || (maker < self.forward && is_cheap(node.op) && self.are_there(node, at))
    }

    fn are_there(&self, node: &Node, at: usize) -> bool {
        node.operands.iter().all(|&operand| self.is_there(operand, at))
    }

    /// The ops that are computed again, each with the op before which that is done.
    fn again(mut self) -> BTreeMap<usize, usize> {
        let mut again = BTreeMap::new();
        for number in (0..self.forward).rev() {
            let node = &self.program.nodes()[number];
            let Some(at) = node.results.iter().filter_map(|result| self.first[result.index()]).min() else {
                continue;
            };
            // What ends the run is kept whatever else reads it.
            let is_end = node.results.iter().any(|result| self.last[result.index()] == usize::MAX);
            // Another shape of what is kept anyhow takes no memory.
            let is_free = node.op == Op::Reshape && self.last[node.operands[0].index()] >= at;
            if is_cheap(node.op) && !is_end && !is_free && self.are_there(node, at) {
                again.insert(number, at);
                // Operands are then read there: those that are computed again themselves, by then.
                node.operands.iter().for_each(|&operand| self.read(operand, at));
            }
        }
        again
    }
}

fn rewrite(
    program: &Program,
    forward: usize,
    again: &BTreeMap<usize, usize>,
) -> Result<Program, ProgramError> {
    let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    // In the order of the forward pass, in which each comes after what it reads.
    again.iter().for_each(|(&number, &at)| before.entry(at).or_default().push(number));
    let mut b = Builder::new();
    let mut kept: Vec<ValueId> = Vec::with_capacity(program.types().len());
    for arg in program.args() {
        kept.push(b.arg(arg.role, &arg.name, program.ty(arg.value).clone()));
    }
    let mut latest = BTreeMap::new();
    for (at, node) in program.nodes().iter().enumerate() {
        for &number in before.get(&at).into_iter().flatten() {
            let twice = &program.nodes()[number];
            let results = copy(&mut b, twice, |value| *latest.get(&value).unwrap_or(&kept[value.index()]));
            latest.extend(twice.results.iter().copied().zip(results));
        }
        let results = match at < forward {
            true => copy(&mut b, node, |value| kept[value.index()]),
            false => copy(&mut b, node, |value| *latest.get(&value).unwrap_or(&kept[value.index()])),
        };
        kept.extend(results);
    }
    for update in program.updates() {
        b.update(kept[update.state.index()], kept[update.value.index()]);
    }
    for output in program.outputs() {
        b.output(&output.name, kept[output.value.index()]);
    }
    b.finish()
}

fn copy(b: &mut Builder, node: &Node, renamed: impl Fn(ValueId) -> ValueId) -> Vec<ValueId> {
    let operands: Vec<ValueId> = node.operands.iter().map(|&operand| renamed(operand)).collect();
    b.push(node.op, &operands, node.attrs.clone())
}

#[cfg(test)]
mod tests;

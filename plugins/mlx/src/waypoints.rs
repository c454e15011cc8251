//! Values that are evaluated on the way to a program's results.
//!
//! MLX orders the work on what it is asked for by itself. Asked for part after part, in the program's order, it keeps
//! nothing for longer than the program does, and there is something to wait for when memory is short.

use finetune_plugin_api::plan;
use finetune_plugin_api::program::{Op, Program, ValueId};

/// Parts of a concatenation from which on they are waypoints.
const MANY: usize = 16;
/// Values from one waypoint to the next, where nothing else is asked for.
const STRETCH: usize = 48;

/// The waypoints, none of them a result.
pub fn of(program: &Program, needed: &[bool], gpu: bool) -> Vec<ValueId> {
    let results: Vec<ValueId> = plan::results(program).collect();
    let mut found = parts(program, needed);
    if gpu {
        found.extend(kept(program, needed, results.iter().chain(&found)));
    }
    found.retain(|value| !results.contains(value));
    found.sort_unstable();
    found.dedup();
    found
}

/// The parts of long concatenations, gradients as a rule: computed when the whole is wanted, what they are made of
/// would be kept until then.
fn parts(program: &Program, needed: &[bool]) -> Vec<ValueId> {
    let long = program.nodes().iter().filter(|node| node.op == Op::Concat && node.operands.len() >= MANY);
    long.flat_map(|node| node.operands.iter().copied()).filter(|part| needed[part.index()]).collect()
}

/// Along stretches without a result (a forward pass) the values that are kept for long anyway.
fn kept<'a>(program: &Program, needed: &[bool], asked: impl Iterator<Item = &'a ValueId>) -> Vec<ValueId> {
    let uses = plan::Uses::of(program);
    let mut is_asked = vec![false; program.types().len()];
    asked.for_each(|value| is_asked[value.index()] = true);
    let (mut found, mut since) = (Vec::new(), 0);
    for (at, node) in program.nodes().iter().enumerate() {
        since += 1;
        if node.results.iter().any(|result| is_asked[result.index()]) {
            since = 0;
        }
        let Some(&first) = node.results.first() else { continue };
        let is_kept =
            needed[first.index()] && uses.last_reader(first).is_some_and(|last| last > at + STRETCH);
        if since >= STRETCH && is_kept && program.ty(first).elements() > 1 {
            found.push(first);
            since = 0;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::{Attrs, Builder, DType, TensorType};

    use super::*;

    /// A chain whose every tenth value is read again in reverse order at the end.
    fn forward_and_back(length: usize) -> Program {
        let mut b = Builder::new();
        let mut x = b.input("x", TensorType::new(DType::F32, &[4]));
        let mut saved = Vec::new();
        for i in 0..length {
            x = b.apply(Op::Exp, &[x], Attrs::none());
            if i % 10 == 0 {
                saved.push(x);
            }
        }
        for value in saved.into_iter().rev() {
            x = b.mul(x, value);
        }
        b.output("y", x);
        b.finish().unwrap()
    }

    /// Only what is kept anyway is a waypoint, and only where MLX works ahead of the host.
    #[test]
    fn long_stretches_have_waypoints() {
        let program = forward_and_back(200);
        let needed = plan::needed(&program);
        assert_eq!(of(&program, &needed, false), []);
        let found: Vec<usize> = of(&program, &needed, true).iter().map(|value| value.index()).collect();
        // Argument 0 is the first value, so node n defines value n + 1.
        assert_eq!(found, [51, 101, 151]);
    }

    /// Gradients are computed as they come, not when all of them are wanted.
    #[test]
    fn parts_of_long_concatenations_are_waypoints() {
        let mut b = Builder::new();
        let x = b.input("x", TensorType::new(DType::F32, &[4]));
        let parts: Vec<ValueId> = (0..MANY).map(|i| b.scale(x, 2.0 + i as f64)).collect();
        let (long, short) = (b.concat(&parts, 0), b.concat(&parts[..2], 0));
        b.output("long", long);
        b.output("short", short);
        let program = b.finish().unwrap();
        assert_eq!(of(&program, &plan::needed(&program), false).len(), MANY);
    }
}

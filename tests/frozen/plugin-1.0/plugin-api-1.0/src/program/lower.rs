//! Program to program: composites that a plugin has not natively become their decompositions, and what
//! nobody reads is dropped.

use std::collections::BTreeSet;

use super::attrs::Attrs;
use super::builder::{Builder, arguments_first};
use super::table::{Class, Op};
use super::{Node, Program, ProgramError, ValueId};

/// The name by which a plugin says that its `attention` gives `lse` too.
pub const ATTENTION_LSE: &str = "attention.lse";

/// The composite ops that a plugin has natively, as it names them. Core ops need no mention: every plugin has
/// them. Names of another version of the language are kept and mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NativeOps {
    names: BTreeSet<String>,
}

impl NativeOps {
    /// Every op of the table, and [`ATTENTION_LSE`].
    pub fn all() -> NativeOps {
        let names = super::table::TABLE.iter().map(|def| def.name).chain([ATTENTION_LSE]);
        names.collect()
    }

    /// No composite at all: the smallest plugin.
    pub fn none() -> NativeOps {
        NativeOps::default()
    }

    /// These names.
    pub fn of(names: &[&str]) -> NativeOps {
        names.iter().copied().collect()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether a node can be handed over as it is. `attention` with `lse` needs [`ATTENTION_LSE`] as well.
    pub fn has(&self, node: &Node) -> bool {
        let def = node.op.def();
        let gives_lse =
            node.op != Op::Attention || !node.attrs.get_bool("lse") || self.names.contains(ATTENTION_LSE);
        def.class == Class::Core || (self.names.contains(def.name) && gives_lse)
    }
}

impl<S: Into<String>> FromIterator<S> for NativeOps {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> NativeOps {
        NativeOps { names: names.into_iter().map(Into::into).collect() }
    }
}

/// Writes every composite for which `native` is false as its decomposition, and again until none is left;
/// then drops what nobody reads. Arguments, updates and outputs keep their names, types and order.
///
/// # Errors
/// A decomposition cannot be written for these operands: only for shapes beyond the range of `u32`.
pub fn lower(program: &Program, native: &dyn Fn(&Node) -> bool) -> Result<Program, ProgramError> {
    let stays = |node: &Node| node.op.def().class == Class::Core || native(node);
    let mut program = program.clone();
    // A composite is written with simpler composites, so this comes to an end.
    while !program.nodes.iter().all(stays) {
        program = decompose_once(&program, &stays)?;
    }
    Ok(without_dead(program))
}

fn decompose_once(program: &Program, stays: &dyn Fn(&Node) -> bool) -> Result<Program, ProgramError> {
    let mut b = Builder::new();
    let mut renamed: Vec<ValueId> = Vec::with_capacity(program.types.len());
    for arg in &program.args {
        renamed.push(b.arg(arg.role, &arg.name, program.ty(arg.value).clone()));
    }
    for node in &program.nodes {
        let operands: Vec<_> = node.operands.iter().map(|operand| renamed[operand.index()]).collect();
        let results = match node.op.def().decompose {
            Some(decompose) if !stays(node) => decompose(&mut b, &operands, &node.attrs),
            _ => copy(&mut b, node, &operands),
        };
        for (old, &new) in node.results.iter().zip(&results) {
            let (had, has) = (program.ty(*old), b.ty(new).clone());
            if *had != has {
                b.fail(node.op.name(), format!("its decomposition gives {has} where it gives {had}"));
            }
        }
        renamed.extend(&results[..node.results.len()]);
    }
    for update in &program.updates {
        b.update(renamed[update.state.index()], renamed[update.value.index()]);
    }
    for output in &program.outputs {
        b.output(&output.name, renamed[output.value.index()]);
    }
    b.finish()
}

fn copy(b: &mut Builder, node: &Node, operands: &[ValueId]) -> Vec<ValueId> {
    match node.op {
        // Shared with those that the decompositions need.
        Op::Constant => vec![b.constant(node.attrs.get_float("value"), node.attrs.get_dtype("dtype"))],
        op => b.push(op, operands, Attrs(node.attrs.0.clone())),
    }
}

/// The program without the ops of which no result leads to an update or output. Arguments all stay: buffers
/// are bound to them in order.
pub fn without_dead(mut program: Program) -> Program {
    let mut needed = vec![false; program.types.len()];
    let ends = program.updates.iter().map(|update| update.value);
    for value in ends.chain(program.outputs.iter().map(|output| output.value)) {
        needed[value.index()] = true;
    }
    let mut kept: Vec<Node> = Vec::new();
    for node in program.nodes.drain(..).rev() {
        if node.results.iter().any(|result| needed[result.index()]) {
            node.operands.iter().for_each(|operand| needed[operand.index()] = true);
            kept.push(node);
        }
    }
    kept.reverse();
    program.nodes = kept;
    arguments_first(program)
}

#[cfg(test)]
mod tests {
    use super::super::text::{parse, print};
    use super::*;

    const ATTENTION: &str = "finetune.program 1\n\
        %0 = input \"q\" : f32[1,2,2,4]\n\
        %1 = input \"k\" : f32[1,3,1,4]\n\
        %2 = input \"start\" : u32[1]\n\
        %3 = input \"valid\" : u32[1]\n\
        %4, %5 = attention(%0, %1, %1, %2, %3) {scale = 0.5, lse = true} : f32[1,2,2,4], f32[1,2,2]\n\
        output \"out\" = %4\n\
        end\n";

    fn ops(program: &Program) -> Vec<Op> {
        program.nodes().iter().map(|node| node.op).collect()
    }

    /// A plugin with a plain flash attention must not be asked for the log-sum-exp it cannot give.
    #[test]
    fn attention_with_lse_needs_the_extra_name() {
        let program = parse(ATTENTION).unwrap();
        let lower_to = |names: &[&str]| {
            let native = NativeOps::of(names);
            lower(&program, &|node| native.has(node)).unwrap()
        };
        assert_eq!(ops(&lower_to(&["attention", ATTENTION_LSE])), [Op::Attention]);
        assert!(!ops(&lower_to(&["attention"])).contains(&Op::Attention));
        assert!(!ops(&lower_to(&[ATTENTION_LSE])).contains(&Op::Attention));
    }

    #[test]
    fn all_and_none_say_what_their_names_say() {
        let program = parse(ATTENTION).unwrap();
        let all = NativeOps::all();
        assert_eq!(lower(&program, &|node| all.has(node)).unwrap(), program);
        let none = NativeOps::none();
        let lowered = lower(&program, &|node| none.has(node)).unwrap();
        assert!(lowered.nodes().iter().all(|node| node.op.def().class == Class::Core));
    }

    /// The plugin binds buffers by position: an argument that became useless still has its place.
    #[test]
    fn dead_ops_go_and_arguments_stay() {
        let text = "finetune.program 1\n\
            %0 = input \"x\" : f32[2]\n\
            %1 = input \"unread\" : f32[2]\n\
            %2 = exp(%1) : f32[2]\n\
            %3 = neg(%2) : f32[2]\n\
            %4 = abs(%0) : f32[2]\n\
            output \"y\" = %4\n\
            end\n";
        let kept = "finetune.program 1\n\
            %0 = input \"x\" : f32[2]\n\
            %1 = input \"unread\" : f32[2]\n\
            %2 = abs(%0) : f32[2]\n\
            output \"y\" = %2\n\
            end\n";
        assert_eq!(print(&without_dead(parse(text).unwrap())), kept);
    }
}

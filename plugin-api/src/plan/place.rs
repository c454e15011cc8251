//! The decisions: views, direct writes, reuse, arena.

use crate::program::{DType, Node, Op, Program, Role, ValueId};

use super::offsets::{Block, assign};
use super::view::View;
use super::{Copy, Plan, PlanOptions, Storage, in_place_pairs, needed};

/// Storage that one step defines, or that is there from the start.
struct Root {
    storage: Option<Storage>,
    bytes: usize,
    dtype: DType,
    /// Step that writes it; 0 for arguments and constants.
    first: usize,
    /// Last step that reads it; `END` if it is read after the last step.
    last: usize,
    /// Index into the blocks of the arena, once it is to lie there.
    block: Option<usize>,
}

struct Planner<'a> {
    program: &'a Program,
    options: &'a PlanOptions,
    roots: Vec<Root>,
    /// For every value its root and its view; the view's storage is filled in at the end.
    values: Vec<Option<(usize, View)>>,
    steps: Vec<usize>,
    constants: Vec<(DType, f64)>,
    /// (source, target): copies that the end of the run makes.
    copies: Vec<(usize, View, Target)>,
    end: usize,
}

#[derive(Clone, Copy)]
enum Target {
    Storage(Storage),
    Root(usize),
}

const PENDING: Storage = Storage::Arena(usize::MAX);

pub(super) fn plan(program: &Program, options: &PlanOptions) -> Plan {
    let mut planner = Planner {
        program,
        options,
        roots: Vec::new(),
        values: vec![None; program.types().len()],
        steps: Vec::new(),
        constants: Vec::new(),
        copies: Vec::new(),
        end: program.nodes().len(),
    };
    let needed = needed(program);
    planner.define_arguments();
    planner.define_values(&needed);
    planner.find_last_reads();
    planner.place_results();
    planner.finish()
}

impl Planner<'_> {
    fn define_arguments(&mut self) {
        for (i, arg) in self.program.args().iter().enumerate() {
            self.define(arg.value, Some(Storage::Argument(i)), 0);
        }
    }

    fn define(&mut self, value: ValueId, storage: Option<Storage>, first: usize) {
        let ty = self.program.ty(value);
        let view = View::whole(storage.unwrap_or(PENDING), ty.dtype, &ty.shape);
        let root = Root { storage, bytes: ty.bytes(), dtype: ty.dtype, first, last: first, block: None };
        self.values[value.index()] = Some((self.roots.len(), view));
        self.roots.push(root);
    }

    fn define_values(&mut self, needed: &[bool]) {
        for (i, node) in self.program.nodes().iter().enumerate() {
            let wanted: Vec<ValueId> = node.results.iter().copied().filter(|r| needed[r.index()]).collect();
            let [first, ..] = wanted[..] else { continue };
            if node.op == Op::Constant {
                let constant = Storage::Constant(self.constants.len());
                self.constants.push((node.attrs.get_dtype("dtype"), node.attrs.get_float("value")));
                self.define(first, Some(constant), 0);
            } else if let Some(viewed) = self.view_of(node) {
                self.values[first.index()] = Some(viewed);
            } else {
                self.steps.push(i);
                wanted.iter().for_each(|&value| self.define(value, None, i));
            }
        }
    }

    /// The root and view of a node's result, if nothing has to be moved for it.
    fn view_of(&self, node: &Node) -> Option<(usize, View)> {
        let list = |name| node.attrs.get_ints(name);
        let (root, x) = self.values[node.operands.first()?.index()].as_ref()?;
        let strided = self.options.strided_views;
        let view = match node.op {
            Op::Reshape => x.reshaped(&list("shape"))?,
            Op::Permute if strided => x.permuted(&list("perm")),
            Op::Broadcast if strided => x.broadcast(&list("shape")),
            Op::Slice if strided => x.sliced(&list("start"), &list("size")),
            Op::Cast => {
                let to = node.attrs.get_dtype("dtype");
                let widening = to == DType::F32 && x.declared.is_float() && self.options.widening_views;
                if to != x.declared && !widening {
                    return None;
                }
                View { declared: to, ..x.clone() }
            }
            _ => return None,
        };
        Some((*root, view))
    }

    fn find_last_reads(&mut self) {
        for &step in &self.steps {
            for operand in &self.program.nodes()[step].operands {
                if let Some((root, _)) = self.values[operand.index()] {
                    self.roots[root].last = self.roots[root].last.max(step);
                }
            }
        }
    }

    fn place_results(&mut self) {
        self.place_state();
        self.place_outputs();
        self.reuse_operands();
    }

    /// The root of a value that a step writes and that has no place yet, if the value is all of it.
    fn free_root(&self, value: ValueId) -> Option<usize> {
        let (root, view) = self.values[value.index()].as_ref()?;
        let whole = view.is_plain() && self.program.ty(value).bytes() == self.roots[*root].bytes;
        (whole && self.roots[*root].storage.is_none()).then_some(*root)
    }

    fn place_state(&mut self) {
        let program = self.program;
        let argument_of = |value: ValueId| program.args().iter().position(|arg| arg.value == value);
        let updated: Vec<bool> =
            program.args().iter().map(|arg| program.updates().iter().any(|u| u.state == arg.value)).collect();
        // State whose old value is read when the run ends must stay as it was until then.
        let mut read_at_end = vec![false; program.args().len()];
        let outputs = program.outputs().iter().map(|output| (None, output.value));
        let updates = program.updates().iter().map(|update| (argument_of(update.state), update.value));
        for (target, value) in outputs.chain(updates) {
            if let Some((root, _)) = self.values[value.index()]
                && let Some(Storage::Argument(arg)) = self.roots[root].storage
                && target != Some(arg)
            {
                read_at_end[arg] = true;
            }
        }
        let mut waiting = Vec::new();
        for update in program.updates() {
            let Some(arg) = argument_of(update.state) else { continue };
            debug_assert_eq!(program.args()[arg].role, Role::State);
            if self.options.direct_state && !read_at_end[arg] && self.write_into_state(arg, update.value) {
                continue;
            }
            let Some((root, view)) = self.values[update.value.index()].clone() else { continue };
            let own = self.roots[root].storage == Some(Storage::Argument(arg));
            if !(own && view.is_plain()) {
                waiting.push((arg, root, view));
            }
        }
        // Outputs are copied before any state changes at the end.
        self.copy_outputs_of_arguments();
        let mut last = Vec::new();
        for (arg, mut root, mut view) in waiting {
            if let Some(Storage::Argument(source)) = self.roots[root].storage
                && updated[source]
            {
                let temporary = self.temporary(&view);
                self.copies.push((root, view.clone(), Target::Root(temporary)));
                view = View::whole(PENDING, view.declared, &view.shape);
                root = temporary;
            }
            last.push((root, view, Target::Storage(Storage::Argument(arg))));
        }
        for (root, ..) in &last {
            self.roots[*root].last = self.end;
        }
        self.copies.extend(last);
    }

    fn temporary(&mut self, view: &View) -> usize {
        let bytes = view.shape.iter().product::<usize>() * view.declared.size();
        let dtype = view.declared;
        self.roots.push(Root { storage: None, bytes, dtype, first: self.end, last: self.end, block: None });
        self.roots.len() - 1
    }

    /// Lets the step that makes `value` write it into a state's buffer, if nothing reads the old state later.
    fn write_into_state(&mut self, arg: usize, value: ValueId) -> bool {
        let Some(root) = self.free_root(value) else { return false };
        let Some((state, _)) = self.values[self.program.args()[arg].value.index()] else { return false };
        let writer = self.roots[root].first;
        if self.roots[state].last > writer || !self.may_overlap(writer, root, state) {
            return false;
        }
        self.roots[root].storage = Some(Storage::Argument(arg));
        true
    }

    /// Whether step `writer` may write its result `result` where its operands that lie in `old` lie.
    fn may_overlap(&self, writer: usize, result: usize, old: usize) -> bool {
        let node = &self.program.nodes()[writer];
        let number = node.results.iter().position(|r| self.root_of(*r) == Some(result));
        node.operands.iter().enumerate().all(|(i, operand)| {
            self.root_of(*operand) != Some(old)
                || (self.options.may_reuse(node.op)
                    && in_place_pairs(node.op).iter().any(|&(r, o)| Some(r) == number && o == i)
                    && self.is_whole(*operand)
                    && self.roots[old].dtype == self.roots[result].dtype)
        })
    }

    fn root_of(&self, value: ValueId) -> Option<usize> {
        self.values[value.index()].as_ref().map(|(root, _)| *root)
    }

    fn is_whole(&self, value: ValueId) -> bool {
        self.values[value.index()].as_ref().is_some_and(|(root, view)| {
            view.is_plain()
                && view.shape.iter().product::<usize>() * view.stored.size() == self.roots[*root].bytes
        })
    }

    /// Outputs that are state or parts of it: they show the value from before the run.
    fn copy_outputs_of_arguments(&mut self) {
        for (i, output) in self.program.outputs().iter().enumerate() {
            if let Some((root, view)) = self.values[output.value.index()].clone()
                && matches!(self.program_argument(root), Some(()))
            {
                self.roots[root].last = self.end;
                self.copies.push((root, view, Target::Storage(Storage::Output(i))));
            }
        }
    }

    /// Whether a root is an argument itself (and not a result that is written into its buffer).
    fn program_argument(&self, root: usize) -> Option<()> {
        (root < self.program.args().len()).then_some(())
    }

    fn place_outputs(&mut self) {
        let mut copied = Vec::new();
        for (i, output) in self.program.outputs().iter().enumerate() {
            let Some((root, view)) = self.values[output.value.index()].clone() else { continue };
            if self.program_argument(root).is_some() {
                continue;
            }
            match self.free_root(output.value) {
                Some(root) if self.options.direct_outputs => {
                    self.roots[root].storage = Some(Storage::Output(i));
                }
                _ => copied.push((root, view, Target::Storage(Storage::Output(i)))),
            }
        }
        for (root, ..) in &copied {
            self.roots[*root].last = self.end;
        }
        self.copies.extend(copied);
    }

    /// Gives every result without a place a block of the arena: that of an operand that dies, or a new one.
    fn reuse_operands(&mut self) {
        // Blocks hold (bytes, first, last); filled here and laid out in `finish`.
        for step in self.steps.clone() {
            let node = &self.program.nodes()[step];
            let mut taken: Vec<usize> = Vec::new();
            for (number, result) in node.results.iter().enumerate() {
                let Some(root) = self.root_of(*result) else { continue };
                if self.roots[root].storage.is_some() {
                    continue;
                }
                let reused = self.dying_operand(step, number, root, &taken);
                self.roots[root].block = Some(match reused {
                    Some(old) => {
                        taken.push(old);
                        self.roots[old].block.unwrap_or(old)
                    }
                    None => root,
                });
            }
        }
    }

    fn dying_operand(&self, step: usize, number: usize, result: usize, taken: &[usize]) -> Option<usize> {
        let node = &self.program.nodes()[step];
        if !self.options.may_reuse(node.op) {
            return None;
        }
        let pairs = in_place_pairs(node.op).iter().filter(|(r, _)| *r == number);
        pairs.filter_map(|&(_, operand)| self.root_of(*node.operands.get(operand)?)).find(|&old| {
            let root = &self.roots[old];
            root.block.is_some()
                && root.storage.is_none()
                && root.last == step
                && root.bytes == self.roots[result].bytes
                && !taken.contains(&old)
                && self.may_overlap(step, result, old)
        })
    }

    fn finish(mut self) -> Plan {
        for root in 0..self.roots.len() {
            if self.roots[root].storage.is_none() && self.roots[root].block.is_none() {
                self.roots[root].block = Some(root);
            }
        }
        // A block is named by the root that it was made for.
        let mut index = vec![usize::MAX; self.roots.len()];
        let mut blocks: Vec<Block> = Vec::new();
        for root in self.roots.iter().filter(|root| root.storage.is_none()) {
            let Some(name) = root.block else { continue };
            if index[name] == usize::MAX {
                index[name] = blocks.len();
                blocks.push(Block { bytes: root.bytes, first: root.first, last: root.last });
            }
            let block = &mut blocks[index[name]];
            block.first = block.first.min(root.first);
            block.last = block.last.max(root.last);
        }
        let (offsets, arena_bytes) = assign(&blocks, self.options.alignment());
        for root in &mut self.roots {
            if root.storage.is_none()
                && let Some(name) = root.block
            {
                root.storage = Some(Storage::Arena(offsets[index[name]]));
            }
        }
        let located = |root: usize, mut view: View| {
            view.storage = self.roots[root].storage.unwrap_or(PENDING);
            view
        };
        let copies = self.copies.iter().map(|(root, view, target)| Copy {
            from: located(*root, view.clone()),
            to: match target {
                Target::Storage(storage) => *storage,
                Target::Root(root) => self.roots[*root].storage.unwrap_or(PENDING),
            },
        });
        let views: Vec<Option<View>> =
            self.values.iter().map(|value| value.clone().map(|(root, view)| located(root, view))).collect();
        let workspace_bytes = self.workspace();
        Plan {
            copies: copies.collect(),
            views,
            steps: self.steps,
            constants: self.constants,
            arena_bytes,
            workspace_bytes,
        }
    }

    fn workspace(&self) -> usize {
        let of = |&step: &usize| {
            let node = &self.program.nodes()[step];
            let view = |value: ValueId| self.values[value.index()].as_ref().map(|(_, view)| view);
            let stored = |operand: usize| view(node.operands[operand]).map_or(DType::F32, |view| view.stored);
            let needed = |result: usize| view(node.results[result]).is_some();
            self.options.node_workspace(self.program, node, &stored, &needed)
        };
        let most = self.steps.iter().map(of).max().unwrap_or(0);
        most.checked_next_multiple_of(self.options.alignment()).unwrap_or(usize::MAX)
    }
}

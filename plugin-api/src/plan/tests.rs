use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::conformance::Random;
use crate::program::{Attrs, Builder, DType, Node, Op, Program, TensorType, ValueId, text};

fn everything() -> PlanOptions {
    PlanOptions {
        strided_views: true,
        widening_views: true,
        direct_outputs: true,
        direct_state: true,
        in_place: crate::program::table::TABLE.iter().map(|def| def.name.to_string()).collect(),
        ..PlanOptions::default()
    }
}

fn parse(lines: &str) -> Program {
    text::parse(&format!("finetune.program 1\n{lines}end\n")).unwrap()
}

fn storage(plan: &Plan, value: usize) -> Storage {
    plan.views[value].as_ref().unwrap().storage
}

/// The main saving of the training step: gradient sums and optimizer state are written where they are.
#[test]
fn state_is_updated_in_place_when_nothing_reads_it_later() {
    let program = parse(
        "%0 = input \"x\" : f32[64]\n%1 = state \"s\" : f32[64]\n%2 = neg(%0) : f32[64]\n\
         %3 = add(%1, %2) : f32[64]\nupdate %1 = %3\n",
    );
    let plan = plan(&program, &everything());
    assert_eq!(storage(&plan, 3), Storage::Argument(1));
    assert_eq!((plan.copies.len(), plan.arena_bytes), (0, 256));
}

/// A later reader must see the state from before the run.
#[test]
fn state_that_is_read_later_is_written_at_the_end() {
    let program = parse(
        "%0 = state \"s\" : f32[64]\n%1 = neg(%0) : f32[64]\n%2 = exp(%0) : f32[64]\n\
         update %0 = %1\noutput \"e\" = %2\n",
    );
    let plan = plan(&program, &everything());
    assert!(matches!(storage(&plan, 1), Storage::Arena(_)));
    assert_eq!(plan.copies.len(), 1);
    assert_eq!(storage(&plan, 2), Storage::Output(0));
}

/// A dying operand's storage is taken; an operand that is read again is kept.
#[test]
fn dying_operands_are_overwritten() {
    let program = parse(
        "%0 = input \"x\" : f32[1024]\n%1 = exp(%0) : f32[1024]\n%2 = neg(%1) : f32[1024]\n\
         %3 = sqrt(%2) : f32[1024]\n%4 = add(%3, %2) : f32[1024]\n%5 = sum_squares(%4) : f32[]\n\
         output \"y\" = %5\n",
    );
    let plan = plan(&program, &everything());
    assert_eq!(storage(&plan, 1), storage(&plan, 2));
    assert_ne!(storage(&plan, 2), storage(&plan, 3));
    assert_eq!(plan.arena_bytes, 2 * 4096);
}

#[test]
fn views_move_nothing_and_widening_keeps_the_stored_type() {
    let program = parse(
        "%0 = param \"w\" : bf16[4,6]\n%1 = cast(%0) {dtype = f32} : f32[4,6]\n\
         %2 = permute(%1) {perm = [1,0]} : f32[6,4]\n%3 = slice(%2) {start = [2,1], size = [4,2]} : f32[4,2]\n\
         %4 = exp(%3) : f32[4,2]\noutput \"y\" = %4\n",
    );
    let all = plan(&program, &everything());
    let view = all.views[3].as_ref().unwrap();
    assert_eq!((view.stored, view.declared, view.storage), (DType::Bf16, DType::F32, Storage::Argument(0)));
    assert_eq!((view.start, &view.strides[..]), (6 + 2, &[1, 6][..]));
    assert_eq!((all.steps.len(), all.arena_bytes), (1, 0));
    let none = plan(&program, &PlanOptions::default());
    assert_eq!(none.steps.len(), 4);
}

/// Only the last of two equal reshapes that cannot be told by strides is a step.
#[test]
fn a_reshape_that_strides_cannot_tell_is_a_step() {
    let program = parse(
        "%0 = input \"x\" : f32[4,6]\n%1 = permute(%0) {perm = [1,0]} : f32[6,4]\n\
         %2 = reshape(%1) {shape = [2,3,4]} : f32[2,3,4]\n%3 = reshape(%1) {shape = [24]} : f32[24]\n\
         output \"a\" = %2\noutput \"b\" = %3\n",
    );
    let plan = plan(&program, &everything());
    assert_eq!(plan.steps, vec![2]);
    assert_eq!(plan.views[2].as_ref().unwrap().strides, vec![3, 1, 6]);
}

#[test]
fn scratch_memory_follows_the_terms() {
    let program = parse(
        "%0 = input \"a\" : f32[8,16]\n%1 = param \"b\" : f32[16,32]\n%2 = matmul(%0, %1) : f32[8,32]\n\
         output \"y\" = %2\n",
    );
    let term = Term { bytes: 4, dims: vec![(0, -2), (1, 1)], ..Term::default() };
    let capped = Term { most: 100, ..term.clone() };
    let only_half = Term { half: Some(1), ..term.clone() };
    let unused = Term { result: Some(3), ..term.clone() };
    let options = PlanOptions {
        workspace: [("matmul".to_string(), vec![term, capped, only_half, unused])].into(),
        ..everything()
    };
    let report = peak(&program, &options);
    assert_eq!(report.workspace, (4 * 8 * 32 + 100usize).next_multiple_of(64));
    assert_eq!((report.arguments, report.outputs, report.arena), (4 * (128 + 512), 4 * 256, 0));
}

/// A device publishes its options as JSON and the host plans with what it reads.
#[test]
fn options_cross_as_json() {
    let mut options = everything();
    options
        .workspace
        .insert("matmul".into(), vec![Term { bytes: 4, dims: vec![(0, -1)], ..Term::default() }]);
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<PlanOptions>(&text).unwrap(), options);
    assert_eq!(serde_json::from_str::<PlanOptions>("{}").unwrap(), PlanOptions::default());
}

/// Twenty thousand values, as in the backward program of a large model, in long chains with long lives.
/// The host plans with what a plugin says of itself; nothing that it says may bring the host down.
#[test]
fn absurd_options_are_planned_with() {
    let program = parse("%0 = input \"x\" : f32[64]\n%1 = exp(%0) : f32[64]\noutput \"y\" = %1\n");
    let term = Term { bytes: usize::MAX, dims: vec![(0, isize::MIN), (9, 9)], ..Term::default() };
    let workspace = [("exp".to_string(), vec![term.clone(), term])].into();
    let options = PlanOptions { align: usize::MAX, workspace, ..everything() };
    assert_eq!(peak(&program, &options).total(), usize::MAX);
    assert_eq!(plan(&program, &options).arena_bytes % (1 << 20), 0);
}

#[test]
fn a_large_program_is_planned() {
    let mut b = Builder::new();
    let x = b.input("x", TensorType::new(DType::F32, &[16]));
    let mut kept = vec![x];
    for i in 0..10_000 {
        let last = kept[kept.len() - 1];
        kept.push(if i % 3 == 0 { b.exp(last) } else { b.add(last, kept[i / 2]) });
    }
    let mut sum = kept[0];
    for &value in kept.iter().rev() {
        sum = b.add(sum, value);
    }
    b.output("y", sum);
    let plan = plan(&b.finish().unwrap(), &everything());
    assert!(plan.arena_bytes >= 64 * 5_000 && plan.arena_bytes <= 64 * 10_010, "{}", plan.arena_bytes);
}

/// A program of random ops that keep to one shape or move it about.
fn random_program(seed: u64) -> Program {
    let mut random = Random::new(seed);
    let mut b = Builder::new();
    let shape = [2, 3, 4];
    let ty = TensorType::new(DType::F32, &shape);
    let mut values: Vec<ValueId> = vec![b.input("x", ty.clone()), b.param("w", ty.clone())];
    let half = b.param("h", ty.with_dtype(DType::Bf16));
    values.push(b.cast(half, DType::F32));
    let states: Vec<ValueId> = (0..3).map(|i| b.state(&format!("s{i}"), ty.clone())).collect();
    values.extend(&states);
    for _ in 0..random.below(24) + 1 {
        let mut pick = || values[random.below(values.len())];
        let (x, y) = (pick(), pick());
        let made = match random.below(9) {
            0 => b.neg(x),
            1 => b.add(x, y),
            2 => b.mul(x, y),
            3 => {
                let turned = b.permute(x, &[2, 0, 1]);
                b.reshape(turned, &shape)
            }
            4 => {
                let row = b.slice(x, &[1, 0, 0], &[1, 3, 4]);
                b.broadcast(row, &shape)
            }
            5 => {
                let flat = b.reshape(x, &[6, 4]);
                let soft = b.softmax(flat);
                b.reshape(soft, &shape)
            }
            6 => {
                let low = b.cast(x, DType::Bf16);
                b.cast(low, DType::F32)
            }
            7 => b.full(0.5, &ty),
            _ => {
                let attrs = Attrs::none().int("axis", 0);
                let (start, row) = (b.constant(1.0, DType::U32), b.slice(y, &[0, 0, 0], &[1, 3, 4]));
                b.apply(Op::UpdateSlice, &[x, row, start], attrs)
            }
        };
        values.push(made);
    }
    let mut pick = || values[random.below(values.len())];
    for state in states {
        let value = pick();
        b.update(state, value);
    }
    for i in 0..3 {
        let value = pick();
        b.output(&format!("o{i}"), value);
    }
    b.finish().unwrap()
}

/// Memory in which every byte knows which value (by number) was last written there.
struct Simulation<'a> {
    program: &'a Program,
    bytes: HashMap<(u8, usize), usize>,
}

const ARENA: u8 = 0;

impl Simulation<'_> {
    fn place(storage: Storage) -> (u8, usize) {
        match storage {
            Storage::Arena(offset) => (ARENA, offset),
            Storage::Argument(i) => (1, i << 20),
            Storage::Output(i) => (2, i << 20),
            Storage::Constant(i) => (3, i << 20),
        }
    }

    fn addresses(view: &View) -> Vec<(u8, usize)> {
        let (space, base) = Self::place(view.storage);
        let mut places = vec![view.start];
        for (&length, &stride) in view.shape.iter().zip(&view.strides) {
            places = places.iter().flat_map(|p| (0..length).map(move |i| p + i * stride)).collect();
        }
        let size = view.stored.size();
        places.iter().flat_map(|p| (0..size).map(move |b| (space, base + p * size + b))).collect()
    }

    /// The owner of the storage that a value's view looks into: the argument or step result behind it.
    fn owner(&self, plan: &Plan, value: ValueId) -> usize {
        let maker = self.program.nodes().iter().position(|node| node.results.contains(&value));
        match maker {
            Some(node) if !plan.steps.contains(&node) && self.program.nodes()[node].op != Op::Constant => {
                self.owner(plan, self.program.nodes()[node].operands[0])
            }
            _ => value.index(),
        }
    }

    fn write(&mut self, view: &View, owner: usize) {
        for at in Self::addresses(view) {
            self.bytes.insert(at, owner);
        }
    }

    fn holds(&self, view: &View, owner: usize) -> bool {
        Self::addresses(view).iter().all(|at| self.bytes.get(at) == Some(&owner))
    }
}

/// A step may write where it reads only as its op's kernel allows.
fn check_overlaps(plan: &Plan, node: &Node, options: &PlanOptions) {
    for (r, result) in node.results.iter().enumerate() {
        let Some(written) = &plan.views[result.index()] else { continue };
        let written: std::collections::HashSet<_> = Simulation::addresses(written).into_iter().collect();
        for (o, operand) in node.operands.iter().enumerate() {
            let read = plan.views[operand.index()].as_ref().unwrap();
            if Simulation::addresses(read).iter().any(|at| written.contains(at)) {
                let allowed = in_place_pairs(node.op).contains(&(r, o)) && options.may_reuse(node.op);
                assert!(allowed && read.is_plain(), "{} writes {result} over {operand}", node.op.name());
            }
        }
    }
}

/// Executes a plan symbolically: every operand of every step must still be what was written, and the states
/// and outputs must end with their values.
fn simulate(program: &Program, plan: &Plan, options: &PlanOptions) {
    let mut memory = Simulation { program, bytes: HashMap::new() };
    for (view, arg) in plan.views.iter().flatten().zip(program.args()) {
        memory.write(view, arg.value.index());
    }
    for node in program.nodes().iter().filter(|node| node.op == Op::Constant) {
        if let Some(view) = &plan.views[node.results[0].index()] {
            memory.write(view, node.results[0].index());
        }
    }
    for &step in &plan.steps {
        let node = &program.nodes()[step];
        for operand in &node.operands {
            let view = plan.views[operand.index()].as_ref().unwrap();
            assert!(
                memory.holds(view, memory.owner(plan, *operand)),
                "{operand} is overwritten before {step}"
            );
        }
        for result in &node.results {
            let Some(view) = &plan.views[result.index()] else { continue };
            assert!(view.is_plain());
            if let Storage::Arena(offset) = view.storage {
                assert!(offset + program.ty(*result).bytes() <= plan.arena_bytes);
            }
            memory.write(view, result.index());
        }
        check_overlaps(plan, node, options);
    }
    for copy in &plan.copies {
        let owners: Vec<_> = Simulation::addresses(&copy.from).iter().map(|at| memory.bytes[at]).collect();
        assert!(owners.iter().all(|owner| *owner == owners[0]), "a copy reads two values");
        memory.write(&View::whole(copy.to, copy.from.declared, &copy.from.shape), owners[0]);
    }
    let argument = |state: ValueId| program.args().iter().position(|arg| arg.value == state).unwrap();
    let ends = program.updates().iter().map(|u| (Storage::Argument(argument(u.state)), u.value));
    let outputs = program.outputs().iter().enumerate().map(|(i, o)| (Storage::Output(i), o.value));
    for (storage, value) in ends.chain(outputs) {
        let ty = program.ty(value);
        let whole = View::whole(storage, ty.dtype, &ty.shape);
        assert!(memory.holds(&whole, memory.owner(plan, value)), "{storage:?} does not end as {value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// No value is overwritten while it is needed, state is read before it changes, and every update and
    /// output arrives, whatever a back end can do.
    #[test]
    fn plans_keep_every_value_until_its_last_use(seed: u64, which in 0..64u32) {
        let program = random_program(seed);
        let all = everything();
        let options = PlanOptions {
            strided_views: which & 1 != 0,
            widening_views: which & 2 != 0,
            direct_outputs: which & 4 != 0,
            direct_state: which & 8 != 0,
            in_place: if which & 16 != 0 { all.in_place } else { Vec::new() },
            align: if which & 32 != 0 { 64 } else { 4 },
            ..PlanOptions::default()
        };
        simulate(&program, &plan(&program, &options), &options);
    }

    /// More abilities never need more memory than the sum of all results.
    #[test]
    fn the_arena_is_never_larger_than_all_results_together(seed: u64) {
        let program = random_program(seed);
        let all: usize = program.nodes().iter().flat_map(|node| &node.results)
            .map(|result| program.ty(*result).bytes().next_multiple_of(64)).sum();
        let temporaries: usize = program.updates().iter().map(|u| program.ty(u.value).bytes().next_multiple_of(64)).sum();
        prop_assert!(plan(&program, &everything()).arena_bytes <= all + temporaries);
    }
}

//! The cases that every plugin must pass, made from the op table.
//!
//! For every op: each element type it takes, odd sizes, ones, sizes beyond a register or a block, every
//! attribute, and what its row says about edges. And whole programs: updates, outputs, reuse of memory.
//! What is expected comes from the [reference interpreter](crate::reference) in f64; how far a result may lie
//! from it is derived from the ops and the element types (module `bounds`).
//!
//! A plugin's own test is [`check_device`], or [`check_open`] with options of its own; [`run_bytes`] and [`run_tensors`] run
//! any program for further tests. Whoever reaches a device in another way, as the host does through a
//! loaded library, implements [`Runner`] and calls [`check`].

mod bounds;
mod device;
mod generate;
mod make;
mod programs;
mod random;

#[cfg(test)]
mod tests;

use std::fmt;

pub use device::{check_device, check_open, run_bytes, run_tensors};
pub use generate::random_program;
pub use make::{Variant, variants};
pub use random::Random;

use crate::program::{Attrs, Builder, DType, Op, Program, ProgramError, Role, TensorType, ValueId, table};
use crate::reference::{Outcome, Rounding, Tensor, Values, run};

/// One program with its arguments and what it must give.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique; begins with the op's name.
    pub name: String,
    /// The program. It has composites: lower it first to what the plugin has natively.
    pub program: Program,
    /// A tensor for every argument, in the program's order.
    pub args: Vec<(String, Tensor)>,
    /// What each output, then each state argument after the run, must be.
    pub expected: Vec<Expected>,
    /// How often the program is run with the same arguments; each run must give the same.
    pub runs: usize,
}

/// What one result of a case must be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The output's name, or `state NAME`.
    pub name: String,
    /// The value.
    pub want: Tensor,
    /// For each element, how far a float may lie from it. Other types are equal, and so are infinities.
    pub allowed: Vec<f64>,
}

/// Runs programs on the plugin under test.
pub trait Runner {
    /// Whether the plugin works with this element type; cases with others are skipped.
    fn supports(&self, dtype: DType) -> bool;

    /// Runs a program once, its arguments in order. Returns the outputs in order, then all state arguments
    /// as they are after the run, in order; or why it cannot.
    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String>;
}

/// One result that is not as it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The case.
    pub case: String,
    /// What is wrong: which result, which element, what came, what was expected and how close it had to be.
    pub message: String,
}

/// What came of all cases.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many cases were passed.
    pub passed: usize,
    /// Names of cases that were skipped for an element type.
    pub skipped: Vec<String>,
    /// What failed.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether nothing failed and something ran.
    pub fn is_passed(&self) -> bool {
        self.failures.is_empty() && self.passed > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{}: {}", failure.case, failure.message)?;
        }
        let (failed, skipped) = (self.failures.len(), self.skipped.len());
        write!(f, "{} cases passed, {failed} failures, {skipped} skipped for their element type", self.passed)
    }
}

/// All cases, the same in every call.
pub fn cases() -> Vec<Case> {
    let ways = [Operands::Inputs, Operands::Dying, Operands::States];
    let ops = table::TABLE.iter().flat_map(|def| ways.map(|operands| cases_of(def.op, operands)));
    ops.flatten().chain(programs::cases()).collect()
}

/// The cases of one op, its operands inputs.
pub fn op_cases(op: Op) -> Vec<Case> {
    cases_of(op, Operands::Inputs)
}

fn cases_of(op: Op, operands: Operands) -> Vec<Case> {
    let named = variants(op).into_iter().map(|variant| {
        let name = format!("{} {}{}", op.name(), variant.label, operands.words());
        let program = single_op(op, &variant, operands)
            .unwrap_or_else(|error| panic!("the case {name:?} is made wrongly: {error}"));
        case(name, program, variant.operands, exact(op))
    });
    named.collect()
}

/// What the operands of a case of one op are.
#[derive(Clone, Copy)]
enum Operands {
    /// Inputs, which nothing may write.
    Inputs,
    /// Values that only the op reads, so that it may write its results where they lie.
    Dying,
    /// States whose new values are known before the op, so that it may write its results where they lie; the new
    /// values are the old ones.
    States,
}

impl Operands {
    fn words(self) -> &'static str {
        match self {
            Operands::Inputs => "",
            Operands::Dying => " of values that nothing else reads",
            Operands::States => " of states that are updated",
        }
    }

    fn add(self, b: &mut Builder, number: usize, ty: &TensorType) -> ValueId {
        let role = if matches!(self, Operands::States) { Role::State } else { Role::Input };
        let arg = b.arg(role, &format!("operand{number}"), ty.clone());
        // The same bits in other memory.
        let same = if ty.dtype == DType::Bool { Op::Or } else { Op::Max };
        match self {
            Operands::Inputs => arg,
            Operands::Dying => b.apply(same, &[arg, arg], Attrs::none()),
            Operands::States => {
                let new = b.apply(same, &[arg, arg], Attrs::none());
                b.update(arg, new);
                arg
            }
        }
    }
}

/// Ops of which every implementation gives the same bits: one correctly rounded operation.
fn exact(op: Op) -> bool {
    matches!(op, Op::Cast | Op::Add | Op::Sub | Op::Mul)
}

/// A program of that one op, its results outputs.
fn single_op(op: Op, variant: &Variant, operands: Operands) -> Result<Program, ProgramError> {
    let def = op.def();
    let mut b = Builder::new();
    let types = variant.operands.iter().map(Tensor::ty).enumerate();
    let operands: Vec<_> = types.map(|(number, ty)| operands.add(&mut b, number, ty)).collect();
    let results = b.push(op, &operands, variant.attrs.clone());
    let present = def.results.iter().filter(|slot| slot.when.is_none_or(|attr| variant.attrs.get_bool(attr)));
    for (slot, &result) in present.zip(&results) {
        b.output(slot.name, result);
    }
    b.finish()
}

fn case(name: String, program: Program, args: Vec<Tensor>, exact: bool) -> Case {
    let rounding = if exact { Rounding::Storage } else { Rounding::None };
    let outcome = run(&program, &args, rounding)
        .unwrap_or_else(|error| panic!("the case {name:?} is made wrongly: {error}"));
    let allowed = bounds::allowed(&program, &args)
        .unwrap_or_else(|error| panic!("the case {name:?} is made wrongly: {error}"));
    let wants = results(&program, outcome);
    let expected = wants.into_iter().zip(allowed).map(|((name, want), allowed)| {
        let allowed = if exact { vec![0.0; allowed.len()] } else { allowed };
        Expected { name, want, allowed }
    });
    let expected = expected.collect();
    let args = program.args().iter().map(|arg| arg.name.clone()).zip(args).collect();
    Case { name, program, args, expected, runs: 1 }
}

/// Outputs, then states, with their names.
fn results(program: &Program, outcome: Outcome) -> Vec<(String, Tensor)> {
    let outputs = program.outputs().iter().map(|output| output.name.clone()).zip(outcome.outputs);
    let states = program.args().iter().filter(|arg| arg.role == Role::State);
    let states = states.zip(outcome.states).map(|(arg, (_, tensor))| (format!("state {}", arg.name), tensor));
    outputs.chain(states).collect()
}

/// Runs all cases.
pub fn check(runner: &mut dyn Runner) -> Report {
    check_cases(&cases(), runner)
}

/// Runs some cases.
pub fn check_cases(cases: &[Case], runner: &mut dyn Runner) -> Report {
    let mut report = Report::default();
    for case in cases {
        if case.program.types().iter().any(|ty| !runner.supports(ty.dtype)) {
            report.skipped.push(case.name.clone());
            continue;
        }
        match check_case(case, runner) {
            Ok(()) => report.passed += 1,
            Err(message) => report.failures.push(Failure { case: case.name.clone(), message }),
        }
    }
    report
}

/// Runs one case; says what is wrong first.
///
/// # Errors
/// A sentence about the first result that is not as it must be.
pub fn check_case(case: &Case, runner: &mut dyn Runner) -> Result<(), String> {
    let args: Vec<Tensor> = case.args.iter().map(|(_, tensor)| tensor.clone()).collect();
    for run in 1..=case.runs {
        let at = if run == 1 { String::new() } else { format!("in run {run}: ") };
        let results = runner.run(&case.program, &args).map_err(|error| format!("{at}it failed: {error}"))?;
        if results.len() != case.expected.len() {
            let (have, want) = (results.len(), case.expected.len());
            return Err(format!("{at}{have} results came; there are {want} outputs and states"));
        }
        for (got, expected) in results.iter().zip(&case.expected) {
            compare(got, expected).map_err(|message| at.clone() + &message)?;
        }
    }
    Ok(())
}

fn compare(got: &Tensor, expected: &Expected) -> Result<(), String> {
    let (name, want) = (&expected.name, &expected.want);
    if got.ty() != want.ty() {
        return Err(format!("{name} is {}; expected {}", got.ty(), want.ty()));
    }
    let wrong: Vec<usize> = match (got.values(), want.values()) {
        (Values::Float(got), Values::Float(want)) => {
            positions(got, want, |i, &got, &want| near(got, want, expected.allowed[i]))
        }
        (Values::U32(got), Values::U32(want)) => positions(got, want, |_, got, want| got == want),
        (Values::Bool(got), Values::Bool(want)) => positions(got, want, |_, got, want| got == want),
        _ => return Err(format!("{name} holds elements of another kind than its type {}", want.ty())),
    };
    let Some(&first) = wrong.first() else { return Ok(()) };
    let (count, all) = (wrong.len(), want.ty().elements());
    let at = index(first, &want.ty().shape);
    let (got, want_shown) = (shown(got, first), shown(want, first));
    let allowed = expected.allowed[first];
    Err(format!(
        "{name} {}: element {at:?} is {got}; expected {want_shown}, at most {allowed:.3e} off \
         ({count} of {all} elements are wrong)",
        want.ty()
    ))
}

fn positions<T>(got: &[T], want: &[T], right: impl Fn(usize, &T, &T) -> bool) -> Vec<usize> {
    (0..want.len()).filter(|&i| !right(i, &got[i], &want[i])).collect()
}

fn near(got: f64, want: f64, allowed: f64) -> bool {
    if want.is_nan() {
        return got.is_nan();
    }
    got == want || (want.is_finite() && (got - want).abs() <= allowed)
}

fn shown(tensor: &Tensor, at: usize) -> String {
    match tensor.values() {
        Values::Float(values) => format!("{:?}", values[at]),
        Values::U32(values) => values[at].to_string(),
        Values::Bool(values) => values[at].to_string(),
    }
}

fn index(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, dim) in shape.iter().enumerate().rev() {
        (index[i], at) = (at % dim, at / dim);
    }
    index
}

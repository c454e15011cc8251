use super::*;
use crate::program::{Node, TensorType, lower, text};
use crate::reference::run_watched;

type Change<'a> = dyn Fn(&Node, &mut [Tensor]) + 'a;

/// The reference interpreter as a plugin that stores every result in its type, and perhaps makes a mistake.
struct Reference<'a> {
    lowered: bool,
    change: &'a Change<'a>,
}

impl Runner for Reference<'_> {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let lowered = match self.lowered {
            true => lower(program, &|_| false).map_err(|error| error.to_string())?,
            false => program.clone(),
        };
        let watch = &mut |node: &Node, results: &mut [Tensor]| (self.change)(node, results);
        let outcome = run_watched(&lowered, args, Rounding::Storage, watch);
        let outcome = outcome.map_err(|error| error.to_string())?;
        Ok(results(program, outcome).into_iter().map(|(_, tensor)| tensor.rounded()).collect())
    }
}

/// A plugin that has all composites, and one that has none and does all arithmetic in f32, are right.
#[test]
fn right_plugins_pass() {
    let cases = cases();
    for lowered in [false, true] {
        let report = check_cases(&cases, &mut Reference { lowered, change: &|_, _| {} });
        assert!(report.is_passed(), "lowered: {lowered}\n{report}");
        assert_eq!(report.passed, cases.len());
    }
}

#[test]
fn every_op_has_cases_and_names_are_unique() {
    let cases = cases();
    let mut names = std::collections::HashSet::new();
    for case in &cases {
        assert!(names.insert(&case.name), "two cases are named {:?}", case.name);
    }
    for def in table::TABLE {
        assert!(cases.iter().any(|case| case.program.nodes().iter().any(|node| node.op == def.op)));
        assert!(!variants(def.op).is_empty(), "{}", def.name);
    }
}

fn is_short(ty: &TensorType) -> bool {
    matches!(ty.dtype, DType::F16 | DType::Bf16)
}

/// A bound that is infinite, or as large as the values, checks nothing.
#[test]
fn bounds_are_smaller_than_the_values() {
    for case in cases() {
        for expected in &case.expected {
            let Values::Float(want) = expected.want.values() else { continue };
            let finite = want.iter().map(|x| x.abs()).filter(|x| x.is_finite());
            let largest = finite.fold(0.0, f64::max);
            // The 16-bit types lose one to three digits where terms cancel; f32 must stay below a percent.
            let share = if case.program.types().iter().any(is_short) { 0.15 } else { 0.01 };
            for (allowed, want) in expected.allowed.iter().zip(want) {
                assert!(
                    !want.is_finite() || *allowed <= share * largest + 1e-5,
                    "{}: {} may be {allowed} off; the largest is {largest}",
                    case.name,
                    expected.name
                );
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Mistake {
    /// Every float is too large by a few roundoffs of its type, every other value another.
    Scaled,
    /// Only the last element is wrong.
    Last,
    /// Nothing was written.
    Zero,
}

fn make(mistake: Mistake, tensor: &mut Tensor) {
    let wrong = |tensor: &Tensor, i: usize| match mistake {
        Mistake::Scaled => true,
        Mistake::Last => i + 1 == tensor.values().len(),
        Mistake::Zero => true,
    };
    let scale = match tensor.ty().dtype {
        DType::Bf16 => 1.03,
        DType::F16 => 1.01,
        _ => 1.001,
    };
    let values = match tensor.values() {
        Values::Float(values) => Values::Float(
            (0..values.len())
                .map(|i| match mistake {
                    _ if !wrong(tensor, i) => values[i],
                    Mistake::Zero => 0.0,
                    Mistake::Scaled => values[i] * scale,
                    Mistake::Last => values[i] + 0.25,
                })
                .collect(),
        ),
        Values::U32(values) => Values::U32(
            (0..values.len())
                .map(|i| match mistake {
                    _ if !wrong(tensor, i) => values[i],
                    Mistake::Zero => 0,
                    _ => values[i] ^ 1,
                })
                .collect(),
        ),
        Values::Bool(values) => Values::Bool(
            (0..values.len())
                .map(|i| match mistake {
                    _ if !wrong(tensor, i) => values[i],
                    Mistake::Zero => false,
                    _ => !values[i],
                })
                .collect(),
        ),
    };
    *tensor = Tensor::of_result(tensor.ty(), values);
}

/// The suite finds each kind of mistake in each result of each op of the table, for each element type.
#[test]
fn a_wrong_op_is_caught() {
    for def in table::TABLE {
        let cases = op_cases(def.op);
        for dtype in DType::ALL {
            for result in 0..def.results.len() {
                let of_type =
                    |case: &&Case| case.expected.get(result).is_some_and(|e| e.want.ty().dtype == dtype);
                let cases: Vec<Case> = cases.iter().filter(of_type).cloned().collect();
                for mistake in [Mistake::Scaled, Mistake::Last, Mistake::Zero] {
                    let change = |node: &Node, results: &mut [Tensor]| {
                        if node.op == def.op && result < results.len() {
                            make(mistake, &mut results[result]);
                        }
                    };
                    let report = check_cases(&cases, &mut Reference { lowered: false, change: &change });
                    let caught = !report.failures.is_empty();
                    assert!(cases.is_empty() || caught, "{} {dtype} result {result}: {mistake:?}", def.name);
                }
            }
        }
    }
}

/// Rounding by cutting off is a mistake of its own in a conversion.
#[test]
fn a_cast_that_cuts_off_is_caught() {
    let cut = |node: &Node, results: &mut [Tensor]| {
        if node.op == Op::Cast && results[0].ty().dtype == DType::Bf16 {
            let cut = |x: &f64| f64::from(f32::from_bits((*x as f32).to_bits() & 0xffff_0000));
            let ty = results[0].ty().clone();
            let values = results[0].floats().iter().map(|x| cut(&(x * (1.0 - 2f64.powi(-9))))).collect();
            results[0] = Tensor::of_result(&ty, Values::Float(values));
        }
    };
    let report = check_cases(&op_cases(Op::Cast), &mut Reference { lowered: false, change: &cut });
    assert!(!report.failures.is_empty());
}

/// What plugins do wrong with state and memory.
struct Forgetful {
    mistake: StateMistake,
    last: Option<Vec<Tensor>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum StateMistake {
    NoUpdate,
    OneAfterAnother,
    OutputsMixedUp,
    LastRunSeen,
}

impl Runner for Forgetful {
    fn supports(&self, _: DType) -> bool {
        true
    }

    fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let mut outcome = run(program, args, Rounding::Storage).map_err(|error| error.to_string())?;
        match self.mistake {
            StateMistake::NoUpdate => {
                for (value, tensor) in &mut outcome.states {
                    *tensor = args[value.index()].clone();
                }
            }
            StateMistake::OneAfterAnother => {
                for i in 0..program.updates().len() {
                    let update = program.updates()[i];
                    let source = outcome.states.iter().find(|(state, _)| *state == update.value);
                    // A later update reads what an earlier one has already written.
                    if let Some((_, tensor)) = source.cloned() {
                        outcome.states.iter_mut().for_each(|(state, to)| {
                            if *state == update.state {
                                *to = tensor.clone();
                            }
                        });
                    }
                }
            }
            StateMistake::OutputsMixedUp => outcome.outputs.reverse(),
            StateMistake::LastRunSeen => {}
        }
        let results: Vec<_> = results(program, outcome).into_iter().map(|(_, tensor)| tensor).collect();
        let last = self.last.replace(results.clone());
        match last {
            Some(last) if self.mistake == StateMistake::LastRunSeen => {
                let same =
                    last.len() == results.len() && last.iter().zip(&results).all(|(a, b)| a.ty() == b.ty());
                if !same {
                    return Ok(results);
                }
                let mut mixed = results;
                for (tensor, last) in mixed.iter_mut().zip(&last) {
                    if tensor.ty().dtype.is_float() {
                        let add = last.floats().to_vec();
                        tensor.floats_mut().iter_mut().zip(add).for_each(|(x, add)| *x += add);
                    }
                }
                Ok(mixed)
            }
            _ => Ok(results),
        }
    }
}

#[test]
fn mistakes_with_state_are_caught() {
    use StateMistake::{LastRunSeen, NoUpdate, OneAfterAnother, OutputsMixedUp};
    let programs = programs::cases();
    for mistake in [NoUpdate, OneAfterAnother, OutputsMixedUp, LastRunSeen] {
        let report = check_cases(&programs, &mut Forgetful { mistake, last: None });
        assert!(!report.failures.is_empty(), "{mistake:?}");
    }
}

#[test]
fn a_failure_is_a_sentence() {
    let change = |_: &Node, results: &mut [Tensor]| make(Mistake::Last, &mut results[0]);
    let case = op_cases(Op::Neg).remove(1);
    let message = check_case(&case, &mut Reference { lowered: false, change: &change }).unwrap_err();
    let shape = "out f32[1,1]: element [0, 0] is ";
    assert!(message.starts_with(shape), "{message}");
    assert!(message.ends_with("at most 0.000e0 off (1 of 1 elements are wrong)"), "{message}");
}

/// A plugin without bf16 is not held against bf16 cases, and the report says that they were left out.
#[test]
fn unsupported_element_types_are_skipped_and_counted() {
    struct OnlyF32;
    impl Runner for OnlyF32 {
        fn supports(&self, dtype: DType) -> bool {
            !matches!(dtype, DType::F16 | DType::Bf16)
        }
        fn run(&mut self, program: &Program, args: &[Tensor]) -> Result<Vec<Tensor>, String> {
            assert!(program.types().iter().all(|ty| self.supports(ty.dtype)));
            Reference { lowered: false, change: &|_, _| {} }.run(program, args)
        }
    }
    let report = check_cases(&op_cases(Op::Add), &mut OnlyF32);
    assert!(report.is_passed() && report.skipped.len() > 5 && report.passed > 5, "{report}");
}

/// Cases cross the boundary as text like every program.
#[test]
fn the_text_of_every_case_reads_back() {
    for case in cases() {
        let printed = text::print(&case.program);
        let parsed = text::parse(&printed).unwrap();
        assert_eq!(text::print(&parsed), printed);
    }
}

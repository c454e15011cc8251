//! Programs as closures.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use finetune_plugin_api::export::Error;
use finetune_plugin_api::plan::{self, peak};
use finetune_plugin_api::program::{Node, Op, Program, ValueId};

use crate::facts::{Facts, Spans, is_attention};
use crate::mlx::{Array, Closure, Mlx};
use crate::ops::{self, Step};
use crate::sums::{Sum, Sums};
use crate::waypoints;

/// A program, ready to run.
pub struct Compiled {
    program: Rc<Program>,
    mlx: Rc<Mlx>,
    /// Nodes whose results are needed.
    needed: Rc<Vec<bool>>,
    /// Arguments that the program updates, in the order of the closure's results behind the outputs.
    updated: Vec<usize>,
    spans: Spans,
    sums: Rc<Sums>,
    /// Values that the closure gives behind the results.
    waypoints: Rc<Vec<ValueId>>,
    /// Bytes that a run needs besides its arguments.
    room: usize,
    /// The closure's results in the order in which the program computes them, in parts.
    groups: Vec<Vec<usize>>,
    compile: bool,
    variants: HashMap<Facts, Closure>,
}

impl Compiled {
    pub fn new(mlx: Rc<Mlx>, program: Program, compile: bool) -> Result<Compiled, Error> {
        let needed = plan::needed(&program);
        let (spans, sums) = (Spans::of(&program), Rc::new(Sums::of(&program, &mlx)));
        let updated = plan::updated(&program);
        let waypoints = waypoints::of(&program, &needed, mlx.gpu);
        let groups = groups(&program, &needed, &waypoints);
        let report = peak(&program, &ops::plan_options(mlx.gpu));
        let room = report.outputs.saturating_add(report.arena).saturating_add(report.workspace);
        let (program, needed) = (Rc::new(program), Rc::new(needed));
        let variants = HashMap::new();
        let waypoints = Rc::new(waypoints);
        Ok(Compiled {
            program,
            mlx,
            needed,
            updated,
            spans,
            sums,
            waypoints,
            room,
            groups,
            compile,
            variants,
        })
    }

    /// What is to be known of arguments with these contents, as far as the host wrote them.
    pub fn facts(&self, known: &[Option<&[u32]>]) -> Facts {
        self.spans.facts(known)
    }

    /// Bytes that a run needs besides its arguments, as planned.
    pub fn room(&self) -> usize {
        self.room
    }

    pub fn updated(&self) -> &[usize] {
        &self.updated
    }

    /// Results that are to be evaluated together, part after part.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// The graph of a run: outputs, new states, and what is to be evaluated on the way to them.
    pub fn apply(&mut self, facts: &Facts, arguments: &[Array]) -> Result<Vec<Array>, Error> {
        if !self.variants.contains_key(facts) {
            let closure = self.closure(facts)?;
            self.variants.insert(facts.clone(), closure);
        }
        self.variants[facts].apply(&arguments.iter().collect::<Vec<_>>())
    }

    fn closure(&self, facts: &Facts) -> Result<Closure, Error> {
        let tracing = Tracing {
            mlx: self.mlx.clone(),
            program: self.program.clone(),
            needed: self.needed.clone(),
            sums: self.sums.clone(),
            waypoints: self.waypoints.clone(),
            facts: facts.clone(),
        };
        let plain = Closure::new(move |arguments| tracing.results(arguments));
        if self.compile { plain.compiled() } else { Ok(plain) }
    }
}

/// Values of a program that are worth an evaluation of their own.
const PART: usize = 16;

/// The numbers of what a closure gives (outputs, updates, waypoints, parts of ops), in the order in which it is computed
/// and cut into what is evaluated together.
fn groups(program: &Program, needed: &[bool], waypoints: &[ValueId]) -> Vec<Vec<usize>> {
    let results = plan::results(program).chain(waypoints.iter().copied());
    // Where, and behind the parts of the op that is there.
    let mut order: Vec<(usize, bool, Vec<usize>)> =
        results.enumerate().map(|(i, result)| (result.index(), true, vec![i])).collect();
    let mut next = order.len();
    for node in program.nodes().iter().filter(|node| node.op == Op::LinearCrossEntropy) {
        let needed: Vec<bool> = node.results.iter().map(|result| needed[result.index()]).collect();
        if !needed.contains(&true) {
            continue;
        }
        let [x, weight] = [0, 1].map(|i| program.ty(node.operands[i]));
        let (arrays, chunks) = ops::chunks(x, weight, &needed);
        for _ in 0..chunks {
            order.push((node.results[0].index(), false, (next..next + arrays).collect()));
            next += arrays;
        }
    }
    order.sort();
    let (mut groups, mut end): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for (at, is_whole, numbers) in order {
        match groups.last_mut() {
            Some(group) if is_whole && at < end => group.extend(numbers),
            _ => {
                groups.push(numbers);
                end = if is_whole { at + PART } else { at };
            }
        }
    }
    groups
}

/// What is needed to build the graph of a program over arrays for its arguments.
struct Tracing {
    mlx: Rc<Mlx>,
    program: Rc<Program>,
    needed: Rc<Vec<bool>>,
    sums: Rc<Sums>,
    waypoints: Rc<Vec<ValueId>>,
    facts: Facts,
}

type Values = Vec<Option<Array>>;

fn missing() -> Error {
    Error::internal("a value of the program was not computed")
}

fn value(values: &Values, id: ValueId) -> Result<&Array, Error> {
    values[id.index()].as_ref().ok_or_else(missing)
}

impl Tracing {
    fn results(&self, arguments: &[Array]) -> Result<Vec<Array>, Error> {
        let program = &*self.program;
        let mut values: Values = vec![None; program.types().len()];
        for (arg, array) in program.args().iter().zip(arguments) {
            values[arg.value.index()] = Some(array.clone());
        }
        let (factors, parts) = (RefCell::default(), RefCell::default());
        for (at, node) in program.nodes().iter().enumerate() {
            if self.sums.is_part(at) || !node.results.iter().any(|result| self.needed[result.index()]) {
                continue;
            }
            let results = match self.sums.at(at) {
                Some(sum) => vec![Some(self.sum(sum, &values)?)],
                None => ops::execute(&self.step(node, &values, &factors, &parts)?)?,
            };
            for (value, array) in node.results.iter().zip(results) {
                values[value.index()] = array;
            }
        }
        let result = |id: ValueId| {
            let array = value(&values, id)?;
            // MLX's compiler makes equal scalars one and forgets that a result was among them: a copy is no scalar
            // to it.
            if program.ty(id).elements() == 1 { self.mlx.copy(array) } else { Ok(array.clone()) }
        };
        let waypoints = self.waypoints.iter().map(|&id| value(&values, id).cloned());
        let parts = parts.take().into_iter().map(Ok);
        plan::results(program).map(result).chain(waypoints).chain(parts).collect()
    }

    fn step<'a>(
        &'a self,
        node: &'a Node,
        values: &'a Values,
        factors: &'a RefCell<ops::Factors>,
        parts: &'a RefCell<Vec<Array>>,
    ) -> Result<Step<'a>, Error> {
        let program = &*self.program;
        Ok(Step {
            mlx: &self.mlx,
            op: node.op,
            attrs: &node.attrs,
            operands: node.operands.iter().map(|&id| value(values, id)).collect::<Result<_, _>>()?,
            values: &node.operands,
            types: node.operands.iter().map(|&id| program.ty(id)).collect(),
            results: node.results.iter().map(|&id| program.ty(id)).collect(),
            needed: node.results.iter().map(|id| self.needed[id.index()]).collect(),
            full: self.facts.full && is_attention(node.op),
            factors,
            parts,
        })
    }

    /// What is there first, and each product onto it.
    fn sum(&self, sum: &Sum, values: &Values) -> Result<Array, Error> {
        let mut total: Option<Array> = None;
        for &id in &sum.values {
            let term = value(values, id)?;
            total = Some(total.map_or_else(|| Ok(term.clone()), |total| self.mlx.add(&total, term))?);
        }
        for &product in &sum.products {
            let node = &self.program.nodes()[product];
            let operands = [value(values, node.operands[0])?, value(values, node.operands[1])?];
            total = Some(ops::add_product(&self.mlx, total.as_ref(), &node.attrs, operands)?);
        }
        total.ok_or_else(missing)
    }
}

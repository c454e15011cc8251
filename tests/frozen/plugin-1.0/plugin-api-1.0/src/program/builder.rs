use std::collections::{HashMap, HashSet};

use super::attrs::{AttrValue, Attrs};
use super::error::ProgramError;
use super::table::Op;
use super::types::{DType, TensorType};
use super::{Arg, Node, Output, Program, Role, Update, ValueId};

/// Builds a [`Program`].
///
/// Nothing here fails at once: the first mistake is kept and [`Builder::finish`] reports it, so that models
/// and rules read like formulas. After a mistake every method returns a placeholder of type `f32[]`.
#[derive(Default)]
pub struct Builder {
    program: Program,
    constants: HashMap<(u64, DType), ValueId>,
    names: HashSet<(bool, String)>,
    updated: HashSet<ValueId>,
    /// Parts of the model and the number of ops when each began, in order.
    places: Vec<(usize, String)>,
    error: Option<ProgramError>,
}

static PLACEHOLDER: TensorType = TensorType { dtype: DType::F32, shape: Vec::new() };
const NOWHERE: ValueId = ValueId(u32::MAX);

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// A builder that goes on where a finished program ends. Its values keep their names.
    pub fn from_program(program: &Program) -> Builder {
        let args = program.args.iter().map(|arg| (true, arg.name.clone()));
        let outputs = program.outputs.iter().map(|output| (false, output.name.clone()));
        let constants = program.nodes.iter().filter(|node| node.op == Op::Constant).map(|node| {
            let (value, dtype) = (node.attrs.get_float("value"), node.attrs.get_dtype("dtype"));
            ((value.to_bits(), dtype), node.results[0])
        });
        Builder {
            constants: constants.collect(),
            names: args.chain(outputs).collect(),
            updated: program.updates.iter().map(|update| update.state).collect(),
            program: program.clone(),
            ..Builder::default()
        }
    }

    /// Names the part of the model that is being built, for messages: `layers.3.mlp`.
    pub fn set_place(&mut self, place: impl Into<String>) {
        self.places.push((self.program.nodes.len(), place.into()));
    }

    /// The part of the model that op number `node` belongs to; empty if none was named. The number of ops so
    /// far asks for the part that is being built.
    pub fn place_of(&self, node: usize) -> &str {
        let began = self.places.partition_point(|(first, _)| *first <= node);
        self.places[..began].last().map_or("", |(_, place)| place)
    }

    /// The arguments so far.
    pub fn args(&self) -> &[Arg] {
        &self.program.args
    }

    /// The ops so far, in an order in which every operand is defined before it is read.
    pub fn nodes(&self) -> &[Node] {
        &self.program.nodes
    }

    /// The types of all values so far, by [`ValueId::index`].
    pub fn types(&self) -> &[TensorType] {
        &self.program.types
    }

    /// The first mistake so far.
    pub fn error(&self) -> Option<&ProgramError> {
        self.error.as_ref()
    }

    /// Reports a mistake that the caller found; the first one counts.
    pub fn fail(&mut self, op: &str, message: impl Into<String>) {
        if self.error.is_none() {
            let number = self.program.nodes.len();
            let at = match self.place_of(number) {
                "" => format!("op {number}"),
                place => format!("op {number} ({place})"),
            };
            self.error = Some(ProgramError::Op { op: op.into(), at, message: message.into() });
        }
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.program.types.get(value.index()).unwrap_or(&PLACEHOLDER)
    }

    /// The element type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.ty(value).dtype
    }

    /// The shape of a value.
    pub fn shape(&self, value: ValueId) -> Vec<usize> {
        self.ty(value).shape.clone()
    }

    /// The dimensions of a value that must have `N` of them.
    pub fn dims<const N: usize>(&mut self, value: ValueId) -> [usize; N] {
        match self.ty(value).shape.as_slice().try_into() {
            Ok(dims) => dims,
            Err(_) => {
                let ty = self.ty(value).clone();
                self.fail("shape", format!("{ty} was expected to have {N} dimensions"));
                [1; N]
            }
        }
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.arg(Role::Input, name, ty)
    }

    /// Declares a parameter.
    pub fn param(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.arg(Role::Param, name, ty)
    }

    /// Declares a state buffer.
    pub fn state(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.arg(Role::State, name, ty)
    }

    /// Declares an argument. Arguments may be declared at any time; they come first in the finished program.
    pub fn arg(&mut self, role: Role, name: &str, ty: TensorType) -> ValueId {
        if self.error.is_some() {
            return NOWHERE;
        }
        if let Err(message) = ty.check() {
            return self.binding_error(format!("{} {name:?}: {message}", role.word()));
        }
        if !self.names.insert((true, name.into())) {
            return self.binding_error(format!("there are two arguments named {name:?}"));
        }
        let value = self.define(ty);
        self.program.args.push(Arg { role, name: name.into(), value });
        value
    }

    /// Lets a state argument take a value when the run ends.
    pub fn update(&mut self, state: ValueId, value: ValueId) {
        if self.error.is_some() || !self.defined(&[state, value]) {
            return;
        }
        let Some(arg) = self.program.args.iter().find(|arg| arg.value == state && arg.role == Role::State)
        else {
            self.binding_error(format!("{state} is updated but is no state argument"));
            return;
        };
        let (have, want) = (self.ty(value), self.ty(state));
        if have != want {
            let message = format!("state {:?} is {want} and cannot take a value of type {have}", arg.name);
            self.binding_error(message);
        } else if !self.updated.insert(state) {
            let message = format!("state {:?} is updated twice", arg.name);
            self.binding_error(message);
        } else {
            self.program.updates.push(Update { state, value });
        }
    }

    /// Names a value as an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        if self.error.is_some() || !self.defined(&[value]) {
            return;
        }
        if !self.names.insert((false, name.into())) {
            self.binding_error(format!("there are two outputs named {name:?}"));
            return;
        }
        self.program.outputs.push(Output { name: name.into(), value });
    }

    /// Applies an op; returns its results.
    pub fn push(&mut self, op: Op, operands: &[ValueId], attrs: Attrs) -> Vec<ValueId> {
        match self.try_push(op, operands, attrs) {
            Some(results) => results,
            None => vec![NOWHERE; op.def().results.len()],
        }
    }

    /// Applies an op that has one result.
    pub fn apply(&mut self, op: Op, operands: &[ValueId], attrs: Attrs) -> ValueId {
        self.push(op, operands, attrs)[0]
    }

    fn try_push(&mut self, op: Op, operands: &[ValueId], attrs: Attrs) -> Option<Vec<ValueId>> {
        if self.error.is_some() || !self.defined(operands) {
            return None;
        }
        let types: Vec<TensorType> = operands.iter().map(|&v| self.ty(v).clone()).collect();
        match check(op, &types, &attrs) {
            Ok((attrs, result_types)) => {
                let results: Vec<_> = result_types.into_iter().map(|ty| self.define(ty)).collect();
                let node = Node { op, operands: operands.to_vec(), attrs, results: results.clone() };
                self.program.nodes.push(node);
                Some(results)
            }
            Err(message) => {
                self.fail(op.name(), message);
                None
            }
        }
    }

    /// Sets a truth value attribute of op number `node`, which is already applied, to true, and so switches
    /// on a result that the op gives only then. Returns that result. What reads the op's other results is not
    /// disturbed.
    pub fn switch_on(&mut self, node: usize, attr: &'static str) -> ValueId {
        let Some(mut changed) = self.program.nodes.get(node).cloned().filter(|_| self.error.is_none()) else {
            return NOWHERE;
        };
        if let Some((_, value)) = changed.attrs.0.iter_mut().find(|(name, _)| *name == attr) {
            *value = AttrValue::Bool(true);
        }
        let types: Vec<TensorType> = changed.operands.iter().map(|&v| self.ty(v).clone()).collect();
        let results = check(changed.op, &types, &changed.attrs).map(|(_, results)| results);
        match results.as_deref() {
            Ok([first @ .., last]) if first.len() == changed.results.len() => {
                let result = self.define(last.clone());
                changed.results.push(result);
                self.program.nodes[node] = changed;
                result
            }
            Ok(_) => {
                self.fail(changed.op.name(), format!("attribute {attr} switches on no further last result"));
                NOWHERE
            }
            Err(message) => {
                let message = message.clone();
                self.fail(changed.op.name(), message);
                NOWHERE
            }
        }
    }

    /// A scalar constant; equal ones are shared.
    pub fn constant(&mut self, value: f64, dtype: DType) -> ValueId {
        if let Some(&known) = self.constants.get(&(value.to_bits(), dtype)) {
            return known;
        }
        let attrs = Attrs::none().dtype("dtype", dtype).float("value", value);
        let result = self.apply(Op::Constant, &[], attrs);
        self.constants.insert((value.to_bits(), dtype), result);
        result
    }

    /// The finished program, or the first mistake.
    pub fn finish(self) -> Result<Program, ProgramError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(arguments_first(self.program)),
        }
    }

    fn define(&mut self, ty: TensorType) -> ValueId {
        let value = ValueId(self.program.types.len() as u32);
        self.program.types.push(ty);
        value
    }

    fn defined(&mut self, values: &[ValueId]) -> bool {
        let unknown = values.iter().find(|value| value.index() >= self.program.types.len());
        if let Some(&value) = unknown {
            self.error = Some(ProgramError::Undefined(value));
        }
        unknown.is_none()
    }

    fn binding_error(&mut self, message: String) -> ValueId {
        let at = match self.place_of(self.program.nodes.len()) {
            "" => String::new(),
            place => format!(" ({place})"),
        };
        self.error = Some(ProgramError::Binding(message + &at));
        NOWHERE
    }
}

/// The rules that one op must keep, whoever applies it: returns complete attributes and the result types.
pub(crate) fn check(op: Op, types: &[TensorType], attrs: &Attrs) -> Result<(Attrs, Vec<TensorType>), String> {
    let def = op.def();
    let attrs = attrs.complete(def.attrs)?;
    match def.operand_count(&attrs) {
        Some(count) if count != types.len() => {
            return Err(format!("it takes {count} operands; {} are given", types.len()));
        }
        None if types.is_empty() => return Err("it takes at least one operand".into()),
        _ => {}
    }
    let results = (def.infer)(types, &attrs).map_err(|message| match types {
        [] => message,
        _ => {
            let types: Vec<_> = types.iter().map(ToString::to_string).collect();
            format!("{message} (operands: {})", types.join(", "))
        }
    })?;
    debug_assert_eq!(results.len(), def.result_count(&attrs), "{}", def.name);
    for ty in &results {
        ty.check()?;
    }
    Ok((attrs, results))
}

/// Renumbers the values so that the arguments are `%0`, `%1`, ... and the results follow in order.
pub(super) fn arguments_first(mut program: Program) -> Program {
    let mut renumbered = vec![NOWHERE; program.types.len()];
    let defined = program.args.iter().map(|arg| arg.value);
    let defined = defined.chain(program.nodes.iter().flat_map(|node| node.results.iter().copied()));
    let order: Vec<ValueId> = defined.collect();
    for (new, old) in order.iter().enumerate() {
        renumbered[old.index()] = ValueId(new as u32);
    }
    program.types = order.iter().map(|old| program.types[old.index()].clone()).collect();
    let renumber = |value: &mut ValueId| *value = renumbered[value.index()];
    program.args.iter_mut().for_each(|arg| renumber(&mut arg.value));
    for node in &mut program.nodes {
        node.operands.iter_mut().for_each(renumber);
        node.results.iter_mut().for_each(renumber);
    }
    for update in &mut program.updates {
        renumber(&mut update.state);
        renumber(&mut update.value);
    }
    program.outputs.iter_mut().for_each(|output| renumber(&mut output.value));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(length: usize) -> TensorType {
        TensorType::new(DType::F32, &[length])
    }

    /// What goes on from a finished program must not lose its arguments, names, constants or updates.
    #[test]
    fn a_finished_program_can_be_opened_again() {
        let mut b = Builder::new();
        let x = b.state("x", row(2));
        let doubled = b.scale(x, 2.0);
        b.output("y", doubled);
        b.update(x, doubled);
        let program = b.finish().unwrap();
        assert_eq!(Builder::from_program(&program).finish().unwrap(), program);

        let mut b = Builder::from_program(&program);
        let count = b.nodes().len();
        b.constant(2.0, DType::F32);
        assert_eq!(b.nodes().len(), count, "the constant is there already");
        b.update(b.args()[0].value, b.args()[0].value);
        assert!(b.finish().unwrap_err().to_string().contains("updated twice"));
        let mut b = Builder::from_program(&program);
        b.input("x", row(1));
        assert!(b.finish().unwrap_err().to_string().contains("two arguments named \"x\""));
    }

    /// Gradients need the log-sum-exp of an attention that was built without it.
    #[test]
    fn an_optional_result_can_be_switched_on_later() {
        let mut b = Builder::new();
        let q = b.input("q", TensorType::new(DType::F32, &[1, 2, 4, 8]));
        let bounds = b.input("bounds", TensorType::new(DType::U32, &[1]));
        let attrs = Attrs::none().float("scale", 1.0);
        let out = b.apply(Op::Attention, &[q, q, q, bounds, bounds], attrs);
        let after = b.neg(out);
        b.output("after", after);
        let lse = b.switch_on(0, "lse");
        assert_eq!(b.ty(lse), &TensorType::new(DType::F32, &[1, 4, 2]));
        b.output("lse", lse);
        let program = b.finish().unwrap();
        assert!(program.nodes()[0].attrs.get_bool("lse"));
        assert_eq!(super::super::text::parse(&program.to_string()).unwrap(), program);

        let mut b = Builder::from_program(&program);
        b.switch_on(0, "causal");
        assert!(b.finish().unwrap_err().to_string().contains("switches on no further last result"));
    }

    #[test]
    fn an_op_is_found_in_its_part_of_the_model() {
        let mut b = Builder::new();
        let x = b.input("x", row(2));
        let y = b.neg(x);
        b.set_place("layers.0");
        let y = b.neg(y);
        b.set_place("head");
        b.neg(y);
        assert_eq!([0, 1, 2, 3].map(|node| b.place_of(node)), ["", "layers.0", "head", "head"]);
    }
}

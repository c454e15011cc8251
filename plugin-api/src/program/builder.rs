use std::collections::{HashMap, HashSet};

use super::attrs::Attrs;
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
    place: String,
    error: Option<ProgramError>,
}

static PLACEHOLDER: TensorType = TensorType { dtype: DType::F32, shape: Vec::new() };
const NOWHERE: ValueId = ValueId(u32::MAX);

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Names the part of the model that is being built, for messages: `layers.3.mlp`.
    pub fn set_place(&mut self, place: impl Into<String>) {
        self.place = place.into();
    }

    /// The first mistake so far.
    pub fn error(&self) -> Option<&ProgramError> {
        self.error.as_ref()
    }

    /// Reports a mistake that the caller found; the first one counts.
    pub fn fail(&mut self, op: &str, message: impl Into<String>) {
        if self.error.is_none() {
            let at = match self.place.as_str() {
                "" => format!("op {}", self.program.nodes.len()),
                place => format!("op {} ({place})", self.program.nodes.len()),
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
        let at = if self.place.is_empty() { String::new() } else { format!(" ({})", self.place) };
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

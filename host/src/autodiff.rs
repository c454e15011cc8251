//! Gradients of programs: one rule table, one walk.
//!
//! [`gradients`] takes a builder that holds a forward program and appends the ops that compute the
//! gradients of a scalar loss. The walk goes over the ops once, backwards, and visits only those that lie on
//! a way from a wanted value to the loss, so what is frozen costs nothing. What each op gives is the
//! rule table's matter.
//!
//! A gradient has exactly the type of its value: that of a bf16 value is bf16. Only values of float types
//! have gradients; indices, positions, masks and counters carry none. Where a value is read several times,
//! its gradients are added up in the order of the walk.

mod gradient;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use finetune_plugin_api::program::lower::ATTENTION_LSE;
use finetune_plugin_api::program::{Builder, DType, NativeOps, Node, Op, ProgramError, TensorType, ValueId};

use gradient::Gradient;
use rules::Rule;

/// What the gradients may use of the back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether attention gives its log-sum-exp at no cost. If so, it is switched on in the forward ops whose
    /// gradient is wanted and read there; if not, the gradient computes it again.
    pub attention_lse: bool,
}

impl Options {
    /// Those for a device with these native ops. Where attention is not native its decomposition gives the
    /// log-sum-exp, too.
    pub fn for_device(native: &NativeOps) -> Options {
        let has = |name: &str| native.names().any(|known| known == name);
        Options { attention_lse: has(ATTENTION_LSE) || !has(Op::Attention.name()) }
    }
}

/// Why there are no gradients.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AutodiffError {
    /// The loss is no number.
    #[error("the loss is {0}; gradients are those of a scalar of type f32[]")]
    Loss(TensorType),
    /// A gradient of something that has none is wanted.
    #[error("{name} is {ty}; only values of float types have gradients")]
    NotFloat {
        /// The value.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A wanted gradient would be zero, whatever the batch.
    #[error(
        "the loss does not depend on {}, so training would leave it as it is; leave it out of what is \
         trained, or correct the model that ignores it",
        names.join(", ")
    )]
    Unused {
        /// The values.
        names: Vec<String>,
    },
    /// An op that the loss depends on through a wanted value cannot be differentiated.
    #[error("op {op} at {at} cannot be differentiated: {reason}")]
    NoRule {
        /// The op's name.
        op: &'static str,
        /// Its number and the part of the model it belongs to.
        at: String,
        /// Why not.
        reason: String,
    },
    /// The program was wrong before, or a rule wrote a wrong op.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Appends to `b` the gradients of `loss`, f32[], with respect to each of `wrt`, and returns them: a value of
/// the same type for each. A value on which the loss does not depend is an error.
pub fn gradients(
    b: &mut Builder,
    loss: ValueId,
    wrt: &[ValueId],
    options: Options,
) -> Result<Vec<ValueId>, AutodiffError> {
    let mut found = vec![loss; wrt.len()];
    gradients_as_ready(b, loss, wrt, options, &mut |_, i, gradient| found[i] = gradient)?;
    Ok(found)
}

/// [`gradients`], each handed to `ready` with its place in `wrt` as soon as it is complete. What `ready` appends
/// then stands right behind the gradient, which need not be kept until all others are there.
pub fn gradients_as_ready(
    b: &mut Builder,
    loss: ValueId,
    wrt: &[ValueId],
    options: Options,
    ready: &mut dyn FnMut(&mut Builder, usize, ValueId),
) -> Result<(), AutodiffError> {
    check(b, loss, wrt)?;
    let forward_place = b.place_of(b.nodes().len()).to_owned();
    let mut walk = Walk::new(b, wrt, options);
    walk.gradients[loss.index()] = Some(Gradient::One);
    for number in (0..walk.nodes).rev() {
        walk.visit(b, number)?;
        // Going backwards, the first op that reads a value is the last that adds to its gradient.
        let complete: Vec<_> = walk.waiting.extract_if(.., |(first, _)| *first == Some(number)).collect();
        for (_, i) in complete {
            walk.hand_over(b, i, wrt, ready);
        }
    }
    for (_, i) in std::mem::take(&mut walk.waiting) {
        walk.hand_over(b, i, wrt, ready);
    }
    b.set_place(forward_place);
    match b.error() {
        Some(error) => Err(error.clone().into()),
        None if !walk.unused.is_empty() => {
            walk.unused.sort_unstable();
            Err(AutodiffError::Unused { names: walk.unused.into_iter().map(|i| name(b, wrt[i])).collect() })
        }
        None => Ok(()),
    }
}

fn check(b: &Builder, loss: ValueId, wrt: &[ValueId]) -> Result<(), AutodiffError> {
    if let Some(error) = b.error() {
        return Err(error.clone().into());
    }
    if let Some(&value) = wrt.iter().chain([&loss]).find(|value| value.index() >= b.types().len()) {
        return Err(ProgramError::Undefined(value).into());
    }
    if *b.ty(loss) != TensorType::scalar(DType::F32) {
        return Err(AutodiffError::Loss(b.ty(loss).clone()));
    }
    match wrt.iter().find(|&&value| !b.dtype(value).is_float()) {
        Some(&value) => Err(AutodiffError::NotFloat { name: name(b, value), ty: b.ty(value).clone() }),
        None => Ok(()),
    }
}

/// What a person calls a value.
fn name(b: &Builder, value: ValueId) -> String {
    match b.args().iter().find(|arg| arg.value == value) {
        Some(arg) => format!("{:?}", arg.name),
        None => value.to_string(),
    }
}

/// An op whose gradient is wanted, as its rule sees it. All rules are those of the op's first result.
struct Site<'a> {
    node: &'a Node,
    /// For each operand, whether its gradient is wanted.
    needs: &'a [bool],
    upstream: Gradient,
    /// The log-sum-exp of an attention, if it can be read.
    lse: Option<ValueId>,
}

impl Site<'_> {
    /// The gradient of the result, of the result's type.
    fn dy(&self, b: &mut Builder) -> ValueId {
        self.upstream.clone().value(b, self.y())
    }

    fn x(&self, operand: usize) -> ValueId {
        self.node.operands[operand]
    }

    fn y(&self) -> ValueId {
        self.node.results[0]
    }
}

struct Walk {
    /// How many ops the forward program has.
    nodes: usize,
    /// For every value of the forward program, whether it depends on a wanted one.
    varies: Vec<bool>,
    gradients: Vec<Option<Gradient>>,
    /// The places in `wrt` whose gradient is not yet complete, each with the first op that reads the value.
    waiting: Vec<(Option<usize>, usize)>,
    /// The places in `wrt` of values on which the loss does not depend.
    unused: Vec<usize>,
    options: Options,
}

impl Walk {
    fn new(b: &Builder, wrt: &[ValueId], options: Options) -> Walk {
        let mut varies = vec![false; b.types().len()];
        wrt.iter().for_each(|value| varies[value.index()] = true);
        for node in b.nodes() {
            if node.operands.iter().any(|value| varies[value.index()]) {
                for result in &node.results {
                    varies[result.index()] |= b.dtype(*result).is_float();
                }
            }
        }
        let mut first_reader = HashMap::new();
        for (number, node) in b.nodes().iter().enumerate().rev() {
            first_reader.extend(node.operands.iter().map(|&operand| (operand, number)));
        }
        let waiting = wrt.iter().enumerate().map(|(i, value)| (first_reader.get(value).copied(), i));
        Walk {
            nodes: b.nodes().len(),
            gradients: vec![None; varies.len()],
            waiting: waiting.collect(),
            unused: Vec::new(),
            varies,
            options,
        }
    }

    fn visit(&mut self, b: &mut Builder, number: usize) -> Result<(), AutodiffError> {
        let node = b.nodes()[number].clone();
        let needs: Vec<bool> = node.operands.iter().map(|value| self.varies[value.index()]).collect();
        // A result that was switched on during the walk is none of the forward program's values.
        let upstream: Vec<Option<Gradient>> =
            node.results.iter().map(|value| self.gradients.get(value.index()).cloned().flatten()).collect();
        if !needs.contains(&true) || upstream.iter().all(Option::is_none) {
            return Ok(());
        }
        let place = b.place_of(number).to_owned();
        let no_rule = |reason: String| {
            let at = if place.is_empty() { format!("op {number}") } else { format!("op {number} ({place})") };
            AutodiffError::NoRule { op: node.op.name(), at, reason }
        };
        let upstream = only_first(&node, &upstream).map_err(&no_rule)?;
        b.set_place(match place.as_str() {
            "" => format!("gradient of op {number}"),
            place => format!("gradient of {place}"),
        });
        let upstream = upstream.written(b, node.results[0]);
        self.gradients[node.results[0].index()] = Some(upstream.clone());
        let lse = rules::attention::lse(b, number, &node, self.options);
        let site = Site { node: &node, needs: &needs, upstream, lse };
        match rules::rule(node.op) {
            Rule::Each(rule) => {
                for (i, gradient) in rule(b, &site).into_iter().enumerate().filter(|(i, _)| needs[*i]) {
                    let gradient = gradient.ok_or_else(|| no_rule(rules::no_operand(&node, i)))?;
                    self.contribute(b, node.operands[i], gradient);
                }
            }
            Rule::Into(rule) => {
                let so_far = self.gradients[node.operands[0].index()].take();
                self.gradients[node.operands[0].index()] = Some(rule(b, &site, so_far));
            }
            Rule::None(reason) => return Err(no_rule(reason.into())),
        }
        Ok(())
    }

    fn contribute(&mut self, b: &mut Builder, value: ValueId, gradient: ValueId) {
        let (have, want) = (b.ty(gradient).clone(), b.ty(value).clone());
        if have != want {
            b.fail("gradient", format!("the gradient of {value} is {have}; expected its type {want}"));
        }
        let sum = match self.gradients[value.index()].take() {
            None => gradient,
            Some(before) => {
                let before = before.value(b, value);
                b.add(before, gradient)
            }
        };
        self.gradients[value.index()] = Some(Gradient::Value(sum));
    }

    /// Hands a complete gradient over.
    fn hand_over(
        &mut self,
        b: &mut Builder,
        i: usize,
        wrt: &[ValueId],
        ready: &mut dyn FnMut(&mut Builder, usize, ValueId),
    ) {
        let value = wrt[i];
        match self.gradients[value.index()].take() {
            Some(gradient) => {
                let gradient = gradient.value(b, value);
                self.gradients[value.index()] = Some(Gradient::Value(gradient));
                ready(b, i, gradient);
            }
            None => self.unused.push(i),
        }
    }
}

/// The gradient of an op's first result; one of any other result has no rule.
fn only_first(node: &Node, upstream: &[Option<Gradient>]) -> Result<Gradient, String> {
    let reason = |i: usize| {
        let result = node.op.def().results[i].name;
        format!(
            "its result {result} is read on the way to the loss, and only its first result has a gradient"
        )
    };
    match upstream.iter().skip(1).position(Option::is_some) {
        Some(i) => Err(reason(i + 1)),
        None => upstream.first().cloned().flatten().ok_or_else(|| reason(0)),
    }
}

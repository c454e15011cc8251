//! What is known of a run's arguments before it: a closure may be made for it.

use finetune_plugin_api::program::{Op, Program, ValueId};

/// What was found.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Facts {
    /// Every attention's rows begin at 0 and are full.
    pub full: bool,
}

/// The numbers that say which keys an attention's rows have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    start: ValueId,
    valid: ValueId,
    keys: usize,
}

/// What has to be looked at.
pub struct Spans {
    all: Vec<Span>,
    /// For each, the arguments that give `start`, where it is not zero by the program itself, and `valid`; nothing
    /// where the program computes one of them.
    arguments: Option<Vec<(Option<usize>, usize)>>,
}

impl Spans {
    pub fn of(program: &Program) -> Spans {
        let attention = program.nodes().iter().filter(|node| is_attention(node.op));
        let mut all: Vec<Span> = attention
            .map(|node| Span {
                start: node.operands[3],
                valid: node.operands[4],
                keys: program.ty(node.operands[1]).shape[1],
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        let argument = |value: ValueId| program.args().iter().position(|arg| arg.value == value);
        let each = all.iter().map(|span| {
            let start = match is_zero(program, span.start) {
                true => None,
                false => Some(argument(span.start)?),
            };
            Some((start, argument(span.valid)?))
        });
        let arguments = each.collect();
        Spans { all, arguments }
    }

    /// Looks at the numbers that the host wrote into arguments.
    pub fn facts(&self, known: &[Option<&[u32]>]) -> Facts {
        let is = |argument: usize, value: usize| {
            known[argument].is_some_and(|numbers| numbers.iter().all(|&number| number as usize == value))
        };
        let full = self.arguments.as_ref().is_some_and(|arguments| {
            let mut spans = self.all.iter().zip(arguments);
            !self.all.is_empty()
                && spans.all(|(span, &(start, valid))| start.is_none_or(|s| is(s, 0)) && is(valid, span.keys))
        });
        Facts { full }
    }
}

pub fn is_attention(op: Op) -> bool {
    matches!(op, Op::Attention | Op::AttentionGrad)
}

/// Whether a value is zeros by the program itself.
fn is_zero(program: &Program, value: ValueId) -> bool {
    let Some(node) = program.nodes().iter().find(|node| node.results.contains(&value)) else { return false };
    match node.op {
        Op::Constant => node.attrs.get_float("value") == 0.0,
        Op::Broadcast | Op::Reshape | Op::Cast => is_zero(program, node.operands[0]),
        _ => false,
    }
}

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

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::text;

    use super::*;

    fn attention(start: &str, tail: &str) -> Program {
        text::parse(&format!(
            "finetune.program 1\n%0 = input \"q\" : f32[2,3,1,8]\n%1 = input \"valid\" : u32[2]\n\
             %2 = input \"start\" : u32[2]\n%3 = constant() {{dtype = u32, value = {start}}} : u32[]\n\
             %4 = broadcast(%3) {{shape = [2]}} : u32[2]\n%5 = attention(%0, %0, %0, {tail}, %1) {{scale = 1.0}} : \
             f32[2,3,1,8]\noutput \"y\" = %5\nend\n"
        ))
        .unwrap()
    }

    fn full(program: &Program, valid: Option<&[u32]>, start: Option<&[u32]>) -> bool {
        Spans::of(program).facts(&[None, valid, start]).full
    }

    /// In training `start` is zeros that the program makes; in generation the host gives it.
    #[test]
    fn rows_are_full_when_they_begin_at_zero_and_every_key_is_valid() {
        let training = attention("0.0", "%4");
        assert!(full(&training, Some(&[3, 3]), None));
        assert!(!full(&training, Some(&[3, 2]), None));
        assert!(!full(&training, None, None));
        assert!(!full(&attention("1.0", "%4"), Some(&[3, 3]), None));
        let given = attention("0.0", "%2");
        assert!(full(&given, Some(&[3, 3]), Some(&[0, 0])));
        assert!(!full(&given, Some(&[3, 3]), Some(&[0, 1])));
        assert!(!full(&given, Some(&[3, 3]), None));
    }
}

//! Random valid programs, for tests of whatever reads programs.

use std::sync::OnceLock;

use super::{Random, variants};
use crate::program::{Attrs, Builder, Op, Program, Role, TensorType, ValueId, table};

/// How an op can be applied.
struct Pattern {
    op: Op,
    types: Vec<TensorType>,
    attrs: Attrs,
}

fn patterns() -> &'static [Pattern] {
    static PATTERNS: OnceLock<Vec<Pattern>> = OnceLock::new();
    PATTERNS.get_or_init(|| {
        let of_op = |op: Op| {
            let pattern =
                move |variant: super::Variant| Pattern { op, types: variant.types(), attrs: variant.attrs };
            variants(op).into_iter().map(pattern)
        };
        table::TABLE.iter().flat_map(|def| of_op(def.op)).collect()
    })
}

/// Ops that fit any float, so that results are read again.
const UNARY: [Op; 6] = [Op::Neg, Op::Abs, Op::Tanh, Op::Sin, Op::Exp, Op::SumSquares];
const BINARY: [Op; 4] = [Op::Add, Op::Mul, Op::Max, Op::Sub];
/// What names may hold, also what has a meaning in the text form.
const ENDINGS: [&str; 10] = ["", "\"", "\\", "é", "\n", "\u{7f}", " : f32[2]", "# %1", "\u{2028}", ".weight"];

/// A program of `ops` ops of the table with random operands, updates and outputs. Values may overflow or
/// become NaN when it is run.
pub fn random_program(rng: &mut Random, ops: usize) -> Program {
    let mut b = Builder::new();
    let mut values: Vec<ValueId> = Vec::new();
    let mut states: Vec<ValueId> = Vec::new();
    for _ in 0..ops {
        let float = values.iter().copied().filter(|&value| b.dtype(value).is_float()).collect::<Vec<_>>();
        if rng.below(2) == 0 && !float.is_empty() {
            let [x, y] = [0, 1].map(|_| float[rng.below(float.len())]);
            let same = b.ty(x) == b.ty(y);
            let result = match rng.below(2) {
                0 => b.apply(UNARY[rng.below(UNARY.len())], &[x], Attrs::none()),
                _ => b.apply(BINARY[rng.below(BINARY.len())], &[x, if same { y } else { x }], Attrs::none()),
            };
            values.push(result);
            continue;
        }
        let op = table::TABLE[rng.below(table::TABLE.len())].op;
        let of_op: Vec<&Pattern> = patterns().iter().filter(|pattern| pattern.op == op).collect();
        let pattern = of_op[rng.below(of_op.len())];
        let operands: Vec<_> =
            pattern.types.iter().map(|ty| operand(&mut b, rng, ty, &mut values, &mut states)).collect();
        let results = b.push(op, &operands, pattern.attrs.clone());
        values.extend(results);
    }
    for state in states {
        let fitting: Vec<_> = values.iter().copied().filter(|&value| b.ty(value) == b.ty(state)).collect();
        if rng.below(3) > 0 && !fitting.is_empty() {
            b.update(state, fitting[rng.below(fitting.len())]);
        }
    }
    for i in 0..rng.below(4).min(values.len()) {
        let name = format!("{i}{}", ENDINGS[rng.below(ENDINGS.len())]);
        b.output(&name, values[rng.below(values.len())]);
    }
    b.finish().unwrap_or_else(|error| panic!("a random program is made wrongly: {error}"))
}

/// A value of that type: one that is there, or a new argument.
fn operand(
    b: &mut Builder,
    rng: &mut Random,
    ty: &TensorType,
    values: &mut Vec<ValueId>,
    states: &mut Vec<ValueId>,
) -> ValueId {
    let fitting: Vec<_> = values.iter().copied().filter(|&value| b.ty(value) == ty).collect();
    if rng.below(4) > 0 && !fitting.is_empty() {
        return fitting[rng.below(fitting.len())];
    }
    let role = [Role::Input, Role::Param, Role::State][rng.below(3)];
    let name = format!("{}{}", values.len(), ENDINGS[rng.below(ENDINGS.len())]);
    let value = b.arg(role, &name, ty.clone());
    values.push(value);
    if role == Role::State {
        states.push(value);
    }
    value
}

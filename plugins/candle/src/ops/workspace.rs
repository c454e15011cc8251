//! How much memory ops take beside their operands and results: what the host plans with, what a run counts as used
//! while an op runs, and what it asks for before.
//!
//! Each list is a bound of what the op's code holds at a time. Not among them are copies of operands that lie otherwise
//! than one after another, and what stays below a part in a hundred of an operand: sums of parts, a row for a thread.

use std::collections::BTreeMap;

use candle_core::Device as Placed;
use finetune_plugin_api::plan::Term;

use super::{attention, loss, matmul};
use crate::{host, kernel};

type Table = BTreeMap<String, Vec<Term>>;

/// So many bytes for each element of an operand, however many dimensions it has.
fn each(bytes: usize, operand: usize) -> Term {
    Term { bytes, dims: (0..8).map(|dim| (operand, dim)).collect(), ..Term::default() }
}

/// An operand as f32.
fn wide(operand: usize) -> Term {
    each(4, operand)
}

/// An operand, or a result of its shape, as f32 if it is of a shorter type.
fn widened(operand: usize) -> Term {
    Term { half: Some(operand), ..wide(operand) }
}

/// So many bytes for each product of those dimensions.
fn sized(bytes: usize, dims: &[(usize, isize)]) -> Term {
    Term { bytes, dims: dims.to_vec(), ..Term::default() }
}

/// Only if that result is needed.
fn for_result(result: usize, term: Term) -> Term {
    Term { result: Some(result), ..term }
}

/// Ops that write their results over operands whenever nothing else reads those: what the optimizer updates and, on a
/// GPU, sums, among them those of gradients. There more ops do (`Step::over`), but not wherever a plan would have them do
/// it: for those it is a bound.
pub fn in_place(placed: &Placed) -> &'static [&'static str] {
    if kernel::on_gpu(placed) { &["adamw", "add"] } else { &["adamw"] }
}

pub fn of(placed: &Placed) -> Table {
    if kernel::on_gpu(placed) { of_gpu() } else { of_processor() }
}

fn table(rows: Vec<(&[&str], Vec<Term>)>) -> Table {
    let each = rows.into_iter().flat_map(|(ops, terms)| {
        ops.iter().map(move |op| ((*op).to_owned(), terms.clone())).collect::<Vec<_>>()
    });
    each.collect()
}

/// Dimensions of q, heads and rows, with as many channels as v: attention's result.
const OUT: [(usize, isize); 4] = [(0, 0), (0, 1), (0, 2), (2, 3)];
/// A number for each query of each head.
const QUERIES: [(usize, isize); 3] = [(0, 0), (0, 1), (0, 2)];
/// The words of packed numbers, the operand before their scales.
const FIRST_WORDS: [(usize, isize); 2] = [(0, 0), (0, 1)];
const SECOND_WORDS: [(usize, isize); 2] = [(1, 0), (1, 1)];
/// Bytes of the numbers of 4 bits in a word, as f32.
const NUMBERS: usize = 8 * 4;

/// Columns of a transposed left operand that candle's product packs at a time, at most.
const DEEPEST: usize = 512;

/// `host` computes in f32: it copies its operands, and a result of a shorter type is rounded out of what it computed.
fn of_processor() -> Table {
    let half_out = Term { half: Some(0), ..sized(4, &OUT) };
    let three = |term: fn(usize) -> Term| [0, 1, 2].map(term);
    let attention = [&three(wide)[..], &[half_out, sized(8, &QUERIES)]].concat();
    // q, k, v, dout and out; then dq, dk and dv in parts, and in whole beside what is rounded of them.
    let attention_grad =
        [&three(wide)[..], &three(wide), &three(widened), &[sized(8, &OUT), sized(4, &QUERIES)]].concat();
    let logits = sized(8, &[(0, 0), (1, 0)]);
    let losses = vec![
        widened(0),
        widened(1),
        Term { most: 8 * host::loss::LOGITS, ..logits },
        // A chunk of dx and all of it, a chunk's part of dweight and the sum.
        for_result(1, wide(0)),
        for_result(1, widened(0)),
        for_result(2, wide(1)),
        for_result(2, widened(1)),
        sized(8, &[(0, 0)]),
    ];
    // A part in f32 and rounded; and rows of the left operand that candle's product puts in another order first.
    let rounded = Term { most: 6 * matmul::CHUNK, half: Some(0), ..matmul_result() };
    let packed = sized(4 * DEEPEST, &[(0, -1)]);
    table(vec![
        (&["exp", "log", "sqrt", "sin", "cos", "tanh", "erf"], vec![widened(0), widened(0)]),
        (&["rsqrt"], vec![wide(0), widened(0), widened(0)]),
        (&["div"], vec![widened(0), widened(1), widened(0)]),
        (&["max", "min"], vec![wide(0), wide(1), each(2, 0)]),
        (&["reduce_sum"], vec![wide(0)]),
        (&["reduce_max"], vec![wide(0), wide(0), wide(0)]),
        (&["matmul"], vec![widened(0), widened(1), rounded, packed]),
        (&["softmax", "activation", "rope"], vec![widened(0)]),
        (&["dropout"], vec![widened(0), wide(0)]),
        (&["softmax_grad", "activation_grad", "gated"], vec![wide(0), widened(0)]),
        (&["gated_grad"], vec![wide(0), widened(0), widened(0)]),
        (&["rms_norm", "layer_norm"], vec![widened(0), wide(1), wide(1)]),
        (
            &["rms_norm_grad", "layer_norm_grad"],
            vec![wide(0), wide(0), widened(0), wide(1), wide(1), wide(1)],
        ),
        (&["attention"], attention),
        (&["attention_grad"], attention_grad),
        (&["cross_entropy"], vec![wide(0)]),
        (&["linear_cross_entropy"], losses),
        (&["sum_squares"], vec![wide(0)]),
        (&["dequantize"], vec![sized(4 + NUMBERS, &FIRST_WORDS), wide(1), wide(2)]),
        (
            &["quantized_matmul"],
            vec![sized(4 + NUMBERS, &SECOND_WORDS), wide(2), wide(3), widened(0), widened(0)],
        ),
    ])
}

/// Products of an operand's rows and columns, whichever they are.
fn matmul_result() -> Term {
    Term { bytes: 6, dims: (0..8).flat_map(|dim| [(0, dim), (1, dim)]).collect(), ..Term::default() }
}

/// Scores and logits are held in parts, gradients that several parts add to in f32.
fn of_gpu() -> Table {
    let scores = Term { most: attention::SCORES, ..sized(4, &[(1, 2), (0, 1), (1, 1)]) };
    // A part has one query at least.
    let one_query = sized(4, &[(1, 2), (1, 1)]);
    let attention = vec![scores.clone(), one_query.clone(), sized(4, &QUERIES)];
    let attention_grad = vec![
        scores.clone(),
        scores,
        one_query.clone(),
        one_query,
        widened(1),
        widened(2),
        sized(4, &QUERIES),
    ];
    let losses = vec![
        Term { most: loss::LOGITS, ..sized(4, &[(0, 0), (1, 0)]) },
        sized(4, &[(1, 0)]),
        for_result(2, widened(1)),
        sized(4, &[(0, 0)]),
    ];
    table(vec![
        (&["attention"], attention),
        (&["attention_grad"], attention_grad),
        (&["cross_entropy"], vec![sized(4, &[(0, 0)])]),
        (&["linear_cross_entropy"], losses),
        (&["quantized_matmul"], vec![sized(NUMBERS, &SECOND_WORDS)]),
    ])
}

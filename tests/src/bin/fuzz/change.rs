//! Inputs that are almost valid.

use finetune_plugin_api::conformance::Random;

/// Words at the edges of what readers of numbers, lists and strings expect.
const TOKENS: &[&str] = &[
    "0",
    "-1",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "18446744073709551616",
    "1e999",
    "nan",
    "inf",
    "%0",
    "%4294967295",
    "[",
    "]",
    "[]",
    "[0]",
    "{",
    "}",
    "(",
    ")",
    "\"",
    "\\",
    "\\u{",
    ",",
    "=",
    ":",
    "#",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "end",
    "true",
];

/// A valid input with one to eight changes, or a joint of two.
pub fn changed(rng: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(8) {
        let length = input.len();
        let (a, b) = (rng.below(length + 1), rng.below(length + 1));
        let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 64));
        match rng.below(7) {
            0 if length > 0 => input[a.min(length - 1)] ^= 1 << rng.below(8),
            1 if length > 0 => input[a.min(length - 1)] = rng.next_u64() as u8,
            2 => drop(input.drain(from..to)),
            3 => {
                let copy = input[from..to].to_vec();
                let at = rng.below(length + 1);
                input.splice(at..at, copy);
            }
            4 => replace_word(rng, &mut input, a),
            5 => {
                let other = &corpus[rng.below(corpus.len())];
                input.truncate(a);
                input.extend(&other[rng.below(other.len() + 1)..]);
            }
            _ => input.truncate(length - rng.below(length + 1) / 4),
        }
    }
    input
}

/// Puts a token in place of the number or word at or after a position.
fn replace_word(rng: &mut Random, input: &mut Vec<u8>, at: usize) {
    let start = (at..input.len()).find(|&i| input[i].is_ascii_alphanumeric()).unwrap_or(at);
    let end = (start..input.len()).find(|&i| !input[i].is_ascii_alphanumeric()).unwrap_or(input.len());
    input.splice(start..end, TOKENS[rng.below(TOKENS.len())].bytes());
}

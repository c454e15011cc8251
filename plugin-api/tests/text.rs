//! The text form: printing and parsing are inverse, and no text makes the reader panic.

use finetune_plugin_api::conformance::{Random, cases, random_program};
use finetune_plugin_api::program::{Program, ProgramError, lower, text};
use proptest::prelude::*;

/// Also right for a NaN attribute, which equals nothing.
fn assert_same(a: &Program, b: &Program) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

fn program(seed: u64, ops: usize) -> Program {
    random_program(&mut Random::new(seed), ops)
}

/// An error that names a line, or a program that prints and parses again.
fn check_text(text: &str) {
    match text::parse(text) {
        Ok(program) => {
            let printed = text::print(&program);
            let again = text::parse(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"));
            assert_eq!(text::print(&again), printed);
        }
        Err(ProgramError::Text { line, message }) => {
            assert!(line >= 1 && line <= text.lines().count() + 1, "line {line} of {text:?}");
            assert!(!message.is_empty());
        }
        Err(error) => panic!("{error} names no line"),
    }
}

/// Texts that begin as valid programs, small enough to be changed often.
fn originals() -> Vec<String> {
    let whole = cases().into_iter().filter(|case| case.name.starts_with("program: "));
    let mut texts: Vec<String> = whole.map(|case| text::print(&case.program)).collect();
    texts.extend((0..20).map(|seed| text::print(&program(seed, 6))));
    texts
}

const TOKENS: [&str; 24] = [
    "%0",
    "%1",
    "%99999999999999999999",
    "18446744073709551615",
    "9007199254740993",
    "[1,1,1,1,1,1,1,1,1]",
    "[]",
    "[0]",
    "{",
    "}",
    "(",
    ")",
    "=",
    ":",
    ",",
    "\"",
    "\\",
    "f32",
    "u32",
    "nan",
    "-1",
    "update",
    "end",
    "#",
];

/// One random change of a text.
fn mutate(rng: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(Into::into).collect();
    let (i, j) = (rng.below(lines.len()), rng.below(lines.len()));
    match rng.below(6) {
        0 => lines.swap(i, j),
        1 => drop(lines.remove(i)),
        2 => lines.insert(i, lines[j].clone()),
        3 => {
            let mut bytes = text.as_bytes().to_vec();
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        4 => {
            let mut words: Vec<&str> = lines[i].split(' ').collect();
            let (a, b) = (rng.below(words.len()), rng.below(words.len()));
            words.insert(a, words[b]);
            lines[i] = words.join(" ");
        }
        _ => {
            let mut words: Vec<&str> = lines[i].split_inclusive(|c: char| !c.is_alphanumeric()).collect();
            if !words.is_empty() {
                let at = rng.below(words.len());
                words[at] = TOKENS[rng.below(TOKENS.len())];
            }
            lines[i] = words.concat();
        }
    }
    lines.join("\n") + "\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn parsing_what_was_printed_gives_the_program(seed: u64, ops in 0usize..20) {
        let program = program(seed, ops);
        let printed = text::print(&program);
        assert_same(&text::parse(&printed).unwrap(), &program);
        assert_eq!(text::print(&text::parse(&printed).unwrap()), printed);
    }

    /// Comments, blanks and blank lines mean nothing; printing gives the canonical text.
    #[test]
    fn blanks_and_comments_mean_nothing(seed: u64, ops in 0usize..8) {
        let printed = text::print(&program(seed, ops));
        let mut spread = String::from("# a comment\n\n");
        for line in printed.lines() {
            spread.push_str(&format!("\t {line}  # {line}\r\n   \n"));
        }
        assert_eq!(text::print(&text::parse(&spread).unwrap()), printed);
    }

    /// Whatever the host may lower, the result is again a valid program with the same arguments and outputs.
    #[test]
    fn lowered_programs_are_valid(seed: u64, ops in 0usize..8) {
        let program = program(seed, ops);
        let lowered = lower(&program, &|_| false).unwrap();
        assert_same(&text::parse(&text::print(&lowered)).unwrap(), &lowered);
        prop_assert_eq!(lowered.args(), program.args());
        prop_assert_eq!(lowered.updates().len(), program.updates().len());
        let names = |program: &Program| {
            let outputs = program.outputs().iter();
            outputs.map(|output| (output.name.clone(), program.ty(output.value).clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(names(&lowered), names(&program));
    }

    #[test]
    fn arbitrary_text_is_refused_with_its_line(text in "\\PC*") {
        check_text(&text);
        check_text(&format!("finetune.program 1\n{text}\nend\n"));
    }
}

#[test]
fn changed_texts_are_refused_with_their_line_or_valid() {
    let originals = originals();
    for seed in 0..20_000 {
        let mut rng = Random::new(seed);
        let mut text = originals[rng.below(originals.len())].clone();
        for _ in 0..=rng.below(3) {
            if text.lines().count() > 0 {
                text = mutate(&mut rng, &text);
            }
        }
        check_text(&text);
    }
}

/// Numbers at the limits of every integer type, wherever the language has a number.
#[test]
fn huge_numbers_are_refused() {
    let numbers =
        ["4294967295", "4294967296", "9007199254740991", "9007199254740992", "18446744073709551615"];
    let bodies = [
        "%0 = input \"x\" : f32[N]",
        "%0 = input \"x\" : f32[N,N,N]",
        "%0 = constant() {dtype = u32, value = N.0} : u32[]",
        "%0 = iota() {dtype = u32, shape = [N], axis = 0} : u32[N]",
        "%0 = iota() {dtype = u32, shape = [2,N,N], axis = N} : u32[2,N,N]",
        "%0 = input \"x\" : f32[2]\n%1 = pad(%0) {low = [N], high = [N]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = slice(%0) {start = [N], size = [N]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = broadcast(%0) {shape = [N,N,2]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = reshape(%0) {shape = [N,N]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = permute(%0) {perm = [N]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = reduce_sum(%0) {axes = [N]} : f32[2]",
        "%0 = input \"x\" : f32[2]\n%1 = concat(%0, %0) {axis = N} : f32[4]",
        "%0 = input \"x\" : u32[2]\n%1 = input \"y\" : u32[]\n\
         %2 = random_bits(%0, %1, %1, %1) {channels = N, site = N} : u32[N]",
        "%0 = input \"p\" : u32[1,N]\n%1 = input \"s\" : f32[1,1]\n\
         %2 = dequantize(%0, %1, %1) {bits = N, group = N} : f32[1,N]",
        "%0 = input \"p\" : u32[1,N]\n%1 = input \"s\" : f32[1,1]\n\
         %2 = dequantize(%0, %1, %1) {bits = 4, group = N} : f32[1,N]",
    ];
    for body in bodies {
        for number in numbers {
            check_text(&format!("finetune.program 1\n{}\nend\n", body.replace('N', number)));
        }
    }
}

/// A text must not make its reader allocate beyond its own size.
#[test]
fn a_text_of_many_commas_is_refused_quickly() {
    let many = "1,".repeat(1 << 20);
    check_text(&format!("finetune.program 1\n%0 = input \"x\" : f32[{many}1]\nend\n"));
    let many = "%0,".repeat(1 << 20);
    check_text(&format!("finetune.program 1\n{many}%0 = neg(%0) : f32[]\nend\n"));
}

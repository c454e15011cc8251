use std::fmt::Write;

use super::VERSION;
use crate::program::{Node, Program, ValueId};

/// The canonical text of a program.
pub fn print(program: &Program) -> String {
    let mut text = format!("finetune.program {VERSION}\n");
    for arg in program.args() {
        let (word, ty) = (arg.role.word(), program.ty(arg.value));
        line(&mut text, format_args!("{} = {word} {} : {ty}", arg.value, quoted(&arg.name)));
    }
    for node in program.nodes() {
        print_node(&mut text, program, node);
    }
    for update in program.updates() {
        line(&mut text, format_args!("update {} = {}", update.state, update.value));
    }
    for output in program.outputs() {
        line(&mut text, format_args!("output {} = {}", quoted(&output.name), output.value));
    }
    text.push_str("end\n");
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{content}");
}

fn print_node(text: &mut String, program: &Program, node: &Node) {
    let (results, operands) = (joined(&node.results), joined(&node.operands));
    let types: Vec<_> = node.results.iter().map(|&result| program.ty(result).to_string()).collect();
    let attrs = print_attrs(node);
    line(text, format_args!("{results} = {}({operands}){attrs} : {}", node.op.name(), types.join(", ")));
}

fn print_attrs(node: &Node) -> String {
    let defs = node.op.def().attrs;
    let shown: Vec<_> = node
        .attrs
        .iter()
        .zip(defs)
        .map(|((name, value), def)| (name, value.to_string(), def))
        // As text, for -0.0 and 0.0 are equal as numbers.
        .filter(|(_, value, def)| def.default_value().is_none_or(|default| default.to_string() != *value))
        .map(|(name, value, _)| format!("{name} = {value}"))
        .collect();
    if shown.is_empty() { String::new() } else { format!(" {{{}}}", shown.join(", ")) }
}

fn joined(values: &[ValueId]) -> String {
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    values.join(", ")
}

/// A name in quotes; `\` before quote and backslash, `\u{..}` for control characters.
pub(super) fn quoted(name: &str) -> String {
    let mut text = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(text, "\\u{{{:x}}}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

//! The template language as transformers sets up jinja2 for chat templates.

use super::{date, python};
use minijinja::{Environment, Error, ErrorKind, State, Value, value::Kwargs};
use std::time::SystemTime;

/// Instructions that one rendering may take, so that a template ends.
const FUEL: u64 = 20_000_000;
/// The largest template that is read, in bytes.
const LONGEST_TEMPLATE: usize = 1 << 20;
/// Stand around what a `{% generation %}` block gives; noncharacters, which no text has.
pub(super) const BLOCK_BEGIN: char = '\u{fdd0}';
pub(super) const BLOCK_END: char = '\u{fdd1}';
/// The function that the block is written as.
const BLOCK: &str = "finetune_generation_block";

/// An environment without templates. `now` is what `strftime_now` says.
pub(super) fn environment(now: SystemTime) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(|out, _, value| {
        out.write_str(&python::text(value)).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", |value: &Value| python::text(value));
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, python::text(message)))
    });
    env.add_function("strftime_now", move |format: &str| date::strftime(now, format));
    env.add_function(BLOCK, |state: &State, options: Kwargs| -> Result<String, Error> {
        let body: Value = options.get("caller")?;
        Ok(format!("{BLOCK_BEGIN}{}{BLOCK_END}", body.call(state, &[])?))
    });
    env
}

/// Adds a template, and says whether it marks what the assistant says by `{% generation %}`.
pub(super) fn add(env: &mut Environment<'static>, name: &'static str, source: &str) -> Result<bool, String> {
    if source.len() > LONGEST_TEMPLATE {
        return Err(format!(
            "it has {} bytes; templates of at most {LONGEST_TEMPLATE} are read",
            source.len()
        ));
    }
    if source.contains([BLOCK_BEGIN, BLOCK_END]) {
        return Err("it has one of the noncharacters U+FDD0 and U+FDD1".into());
    }
    let rewritten = blocks(source);
    let marks = rewritten.is_some();
    let source = rewritten.unwrap_or_else(|| source.to_owned());
    env.add_template_owned(name, source).map_err(|error| sentence(&error))?;
    Ok(marks)
}

/// The source with `{% generation %}` blocks as calls, which treat the white space around them alike; `None` if it
/// has no such block.
fn blocks(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(begin) = rest.find("{%") {
        let Some(length) = rest[begin + 2..].find("%}") else { break };
        let inner = &rest[begin + 2..begin + 2 + length];
        let word = inner.strip_prefix(['-', '+']).unwrap_or(inner);
        let word = word.strip_suffix(['-', '+']).unwrap_or(word).trim();
        let replaced = match word {
            "generation" => Some(inner.replacen("generation", &format!("call {BLOCK}()"), 1)),
            "endgeneration" => Some(inner.replacen("endgeneration", "endcall", 1)),
            _ => None,
        };
        found |= replaced.is_some();
        out.push_str(&rest[..begin + 2]);
        out.push_str(replaced.as_deref().unwrap_or(inner));
        out.push_str("%}");
        rest = &rest[begin + length + 4..];
    }
    out.push_str(rest);
    found.then_some(out)
}

/// What went wrong, for a person.
pub(super) fn sentence(error: &Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it takes more than {FUEL} instructions, so it would hardly come to an end");
    }
    let what = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

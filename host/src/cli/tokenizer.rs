//! `finetune tokenizer`.

use anyhow::Context;

use crate::data::NewTokenizer;

use super::args::TokenizerArgs;
use super::display::format;
use super::output::Output;

/// Makes a tokenizer and writes its files.
///
/// # Errors
/// What keeps it from being done.
pub fn run(args: &TokenizerArgs) -> anyhow::Result<()> {
    let tokenizer = NewTokenizer::learn(&args.data, args.vocab)?;
    tokenizer.save(&args.out)?;
    let line = format!("{} in {}\n", line(&tokenizer, args.vocab), args.out.display());
    Output::stdout().text(&line).context("cannot write the result to standard output")
}

fn line(tokenizer: &NewTokenizer, asked: usize) -> String {
    let count = |number: usize| format::exact(number as u64);
    let tokens = match tokenizer.tokens < asked {
        true => format!("{} tokens (there is not text enough for {})", count(tokenizer.tokens), count(asked)),
        false => format!("{} tokens", count(tokenizer.tokens)),
    };
    let part = if tokenizer.is_part { "the first " } else { "" };
    format!("{tokens}, learned from {part}{} bytes of text,", format::exact(tokenizer.bytes))
}

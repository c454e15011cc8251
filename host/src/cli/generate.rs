//! `finetune generate`.

use std::io::{IsTerminal, Read};

use anyhow::Context;

use crate::generate::{Ending, GenerateRequest, Generated, Prepared, Sampling};
use crate::train::{PrecisionChoice, Settings, StopFlag};

use super::args::GenerateArgs;
use super::display::{About, Human, Screen, format};
use super::interrupt;
use super::output::Output;

/// The longest prompt that is read from standard input, in bytes.
const LONGEST_PROMPT: u64 = 64 << 20;

/// Generates; the completion goes to standard output.
///
/// # Errors
/// What keeps it from being done.
pub fn run(args: GenerateArgs, screen: &Screen) -> anyhow::Result<u8> {
    let settings =
        Settings { backend: args.backend.clone(), plugins: args.plugins.clone(), ..Settings::default() };
    let max_tokens = args.max_tokens;
    let request = request(args)?;
    let stop = StopFlag::new();
    interrupt::install(&stop, screen, "stopping; again to stop at once")?;
    let mut human = Human::new(screen.clone(), About::default(), None);
    // Before the devices are looked for: that may take a while.
    let prepared = Prepared::new(&request, &mut human)?;
    let backend = super::backend::open(&settings.complete(), screen)?;
    let mut generator = prepared.load(backend, &mut human)?;
    drop(human);
    let mut output = Output::stdout();
    let generated = generator.generate(&request.sampling, max_tokens, &stop, |text| {
        output.text(text)?;
        Ok(output.is_read())
    })?;
    if std::io::stdout().is_terminal() {
        output.text("\n").context("cannot write to standard output")?;
    }
    if output.is_read() {
        screen.named("generated", &summary(&generated));
    }
    Ok(if stop.is_set() { interrupt::INTERRUPTED } else { super::DONE })
}

fn request(args: GenerateArgs) -> anyhow::Result<GenerateRequest> {
    let GenerateArgs { temperature, top_p, .. } = args;
    if !temperature.is_finite() || temperature < 0.0 {
        anyhow::bail!("--temperature is {temperature}; expected a number from 0 up");
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        anyhow::bail!("--top-p is {top_p}; expected a number above 0 and at most 1");
    }
    if args.max_tokens == 0 {
        anyhow::bail!("--max-tokens is 0; expected at least 1");
    }
    let prompt = match args.prompt.as_str() {
        "-" => read_prompt(std::io::stdin().lock())?,
        _ => args.prompt,
    };
    Ok(GenerateRequest {
        model: args.model,
        adapter: args.adapter,
        prompt,
        chat: args.chat,
        system: args.system,
        chat_template: args.chat_template,
        sampling: Sampling { temperature, top_p, top_k: args.top_k, seed: args.seed },
        max_tokens: args.max_tokens,
        precision: args.precision.unwrap_or(PrecisionChoice::Auto),
    })
}

/// All of standard input as it is, a last line break included.
fn read_prompt(input: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input
        .take(LONGEST_PROMPT + 1)
        .read_to_end(&mut bytes)
        .context("cannot read the prompt from standard input")?;
    if bytes.len() as u64 > LONGEST_PROMPT {
        anyhow::bail!("the prompt on standard input is longer than 64 MiB; no model reads so much");
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("the prompt on standard input is no UTF-8 text from byte {at} on; convert it")
    })
}

fn summary(generated: &Generated) -> String {
    let tokens = generated.tokens.len();
    let ending = match generated.ending {
        Ending::EndToken => "ended by the model".to_owned(),
        Ending::MaxTokens => "ended by --max-tokens".to_owned(),
        Ending::Positions(limit) => format!("ended where the model's {limit} positions end"),
        Ending::Stopped => "stopped".to_owned(),
    };
    // The first token comes with the prompt.
    let pace = match tokens.saturating_sub(1) {
        0 => String::new(),
        later => format!(", {:.1} tokens/s", later as f64 / generated.seconds.max(1e-9)),
    };
    format!(
        "{} tokens{pace}, {ending}; the prompt's {} took {:.2} s",
        format::exact(tokens as u64),
        format::exact(generated.prompt_tokens as u64),
        generated.prompt_seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_taken_as_it_is() {
        assert_eq!(read_prompt("a\n".as_bytes()).expect("text"), "a\n");
        let message = read_prompt(&b"ab\xff"[..]).expect_err("no text").to_string();
        assert!(message.contains("byte 2"), "{message}");
    }
}

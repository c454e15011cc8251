//! `finetune eval`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use crate::train::{EvalRequest, EvalSummary, Settings, evaluate};

use super::args::EvalArgs;
use super::display::{About, Human, Screen, format};
use super::output::Output;

/// The result, as programs read it.
#[derive(Serialize)]
struct Evaluated {
    event: &'static str,
    step: u64,
    loss: f64,
    tokens: u64,
    perplexity: f64,
}

impl Evaluated {
    fn new(summary: &EvalSummary) -> Evaluated {
        Evaluated {
            event: "eval",
            step: 0,
            loss: summary.loss,
            tokens: summary.tokens,
            perplexity: summary.loss.exp(),
        }
    }
}

/// Evaluates, and prints the result.
///
/// # Errors
/// What keeps it from being done.
pub fn run(args: EvalArgs, screen: &Screen) -> anyhow::Result<()> {
    let json = args.json;
    let settings = Settings {
        model: Some(args.model),
        adapter: args.adapter,
        data: Some(args.data),
        chat_template: args.chat_template,
        seq_len: args.seq_len,
        batch: args.batch,
        precision: args.precision,
        backend: args.backend,
        plugins: args.plugins,
        ..Settings::default()
    };
    let request = request(settings.clone())?;
    super::given::check(&settings)?;
    let backend = super::backend::open(&settings.complete(), screen)?;
    let mut human = Human::new(screen.clone(), About::default(), None);
    let summary = evaluate(&request, backend, &mut human)?;
    drop(human);
    let mut output = Output::stdout();
    let written = match json {
        true => output.json(&Evaluated::new(&summary)),
        false => output.text(&line(&summary)),
    };
    written.context("cannot write the result to standard output")
}

/// The same defaults and checks as a run has.
fn request(settings: Settings) -> anyhow::Result<EvalRequest> {
    let config = settings.resolve(PathBuf::new())?;
    Ok(EvalRequest {
        model: config.model,
        adapter: config.adapter,
        data: config.data,
        chat_template: config.chat_template,
        seq_len: config.seq_len,
        batch: config.batch,
        precision: config.precision,
    })
}

fn line(summary: &EvalSummary) -> String {
    let loss = format::loss(summary.loss);
    let perplexity = format::perplexity(summary.loss);
    format!("loss {loss}, perplexity {perplexity}, {} tokens\n", format::exact(summary.tokens))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Other programs read these keys.
    #[test]
    fn the_result_has_exactly_these_keys() {
        let result = Evaluated::new(&EvalSummary { loss: 0.0, tokens: 12 });
        let expected = json!({"event": "eval", "step": 0, "loss": 0.0, "tokens": 12, "perplexity": 1.0});
        assert_eq!(serde_json::to_value(result).expect("JSON"), expected);
    }

    #[test]
    fn the_result_is_a_line() {
        let summary = EvalSummary { loss: 3.0, tokens: 12_345 };
        assert_eq!(line(&summary), "loss 3.0000, perplexity 20.09, 12,345 tokens\n");
    }

    #[test]
    fn values_are_checked() {
        let settings = Settings { model: Some("m".into()), data: Some("d".into()), ..Settings::default() };
        let request = request(settings.clone()).expect("a request");
        assert_eq!((request.seq_len, request.batch), (512, 8));
        assert!(super::request(Settings { batch: Some(0), ..settings }).is_err());
    }
}

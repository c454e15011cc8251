//! `finetune export`.

use anyhow::Context;
use serde::Serialize;

use crate::train::export::{ExportRequest, ExportSummary, export};
use crate::weights::WeightDType;

use super::args::{ExportArgs, ExportDType};
use super::display::{About, Human, Screen, format};
use super::output::Output;

/// The result, as programs read it.
#[derive(Serialize)]
struct Exported {
    event: &'static str,
    path: String,
    dtype: &'static str,
    tensors: usize,
    merged: usize,
    parameters: u64,
    /// See [`ExportSummary`].
    difference: f64,
    of_adapter: f64,
}

/// Exports, and tells what was written.
///
/// # Errors
/// What keeps it from being done; the output folder is then as it was.
pub fn run(args: ExportArgs, screen: &Screen) -> anyhow::Result<()> {
    let dtype = args.dtype.map(WeightDType::from);
    let request = ExportRequest { model: args.model, adapter: args.adapter, dtype, out: args.out };
    let mut human = Human::new(screen.clone(), About::default(), None);
    let summary = export(&request, &mut human)?;
    drop(human);
    let mut output = Output::stdout();
    let written = match args.json {
        true => output.json(&Exported {
            event: "exported",
            path: request.out.display().to_string(),
            dtype: word(summary.dtype),
            tensors: summary.tensors,
            merged: summary.merged,
            parameters: summary.parameters,
            difference: summary.difference,
            of_adapter: summary.of_adapter,
        }),
        false => output.text(&text(&request, &summary)),
    };
    written.context("the export is complete, but standard output cannot be written")
}

impl From<ExportDType> for WeightDType {
    fn from(dtype: ExportDType) -> WeightDType {
        match dtype {
            ExportDType::F32 => WeightDType::F32,
            ExportDType::Bf16 => WeightDType::BF16,
            ExportDType::F16 => WeightDType::F16,
        }
    }
}

fn word(dtype: WeightDType) -> &'static str {
    match dtype {
        WeightDType::F32 => "f32",
        WeightDType::BF16 => "bf16",
        WeightDType::F16 => "f16",
    }
}

fn text(request: &ExportRequest, summary: &ExportSummary) -> String {
    let mut text = format!(
        "{}: {} parameters in {}\n",
        request.out.display(),
        format::count(summary.parameters),
        word(summary.dtype)
    );
    if summary.merged > 0 {
        text += &format!(
            "the adapter is merged into {} layers; rounding to {} moves a layer's output by at most {}, which is {} \
             of what the adapter does\n",
            summary.merged,
            word(summary.dtype),
            percent(summary.difference),
            percent(summary.of_adapter),
        );
    }
    text
}

/// Two digits that say something, however small.
fn percent(part: f64) -> String {
    match 100.0 * part {
        p if p == 0.0 || p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p if p >= 0.01 => format!("{p:.2} %"),
        p => format!("{p:.0e} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_a_digit_that_says_something() {
        let shown: Vec<_> = [0.0, 0.5, 0.012, 0.00034, 1.2e-8].map(percent).into();
        assert_eq!(shown, ["0 %", "50 %", "1.2 %", "0.03 %", "1e-6 %"]);
    }
}

//! The page: one file that needs nothing else.

use std::fmt::Write;
use std::time::Duration;

use super::super::display::format;
use super::chart::Chart;
use super::figures::{self, MEASURES, colour, is_smoothed};
use super::html::escape;
use super::record::{Note, Run, last_name};

/// Rows of the table of held-out losses.
const KEPT_ROWS: usize = 100;

/// Runs as a page of HTML that is XML, too.
pub fn page(runs: &[Run], log: bool) -> String {
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut out = format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>{}</title>\n<style>\n{}{}{}</style>\n</head>\n<body>\n",
        escape(&title),
        include_str!("colours.css"),
        include_str!("page.css"),
        include_str!("chart.css"),
    );
    header(&mut out, runs, &title);
    match runs {
        [run] => facts(&mut out, run),
        runs => comparison(&mut out, runs),
    }
    loss(&mut out, runs, log);
    out.push_str("<div class=\"grid2\">\n");
    for (i, measure) in MEASURES.iter().filter(|measure| measure.is_known(runs)).enumerate() {
        let (chart, unit) = measure.chart(runs, &format!("plane{i}"), (480.0, 230.0));
        let unit = if unit.is_empty() { String::new() } else { format!(" <small>{unit}</small>") };
        let _ = writeln!(
            out,
            "<figure>\n<figcaption><h2>{}{unit}</h2></figcaption>\n{}</figure>",
            measure.title,
            chart.svg()
        );
    }
    out.push_str("</div>\n");
    settings(&mut out, runs);
    for run in runs {
        out.push_str("<div class=\"grid2\">\n");
        held_out(&mut out, run, runs.len() > 1);
        notes(&mut out, run, runs.len() > 1);
        out.push_str("</div>\n");
    }
    let _ = writeln!(
        out,
        "<footer>Losses are in nats a target token. Made by finetune {}.</footer>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn header(out: &mut String, runs: &[Run], title: &str) {
    let lead = match runs {
        [run] => {
            let data = run.setting("data").map(last_name);
            let parts = [run.model(), run.method(), data].into_iter().flatten();
            let where_ = format!("{} ({})", run.start.device, run.start.backend);
            let parts = parts.chain((!run.start.device.is_empty()).then_some(where_));
            parts
                .chain(Some(run.start.precision.clone()).filter(|p| !p.is_empty()))
                .collect::<Vec<_>>()
                .join(" \u{b7} ")
        }
        runs => format!("{} runs compared", runs.len()),
    };
    let _ = writeln!(
        out,
        "<header>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n</header>",
        escape(title),
        escape(&lead)
    );
}

fn fact(out: &mut String, name: &str, value: &str, more: &str) {
    let more = if more.is_empty() { String::new() } else { format!("<small>{}</small>", escape(more)) };
    let _ = writeln!(out, "<div><dt>{}</dt><dd>{}{more}</dd></div>", escape(name), escape(value));
}

fn time(seconds: f64) -> String {
    format::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Steps taken, and whether that is all.
fn progress(run: &Run) -> (String, String) {
    let (done, all) = (run.last().step, run.start.steps);
    let state = match (run.ended, all > done) {
        (true, _) => "finished".to_owned(),
        (false, true) => format!("of {}; not finished", format::exact(all)),
        (false, false) => "not finished".to_owned(),
    };
    (format::exact(done), state)
}

fn number(value: f64) -> String {
    if value.is_finite() { format::loss(value) } else { "not a number".into() }
}

fn facts(out: &mut String, run: &Run) {
    out.push_str("<dl class=\"facts\">\n");
    if let Some(best) = run.best() {
        let more = format!("perplexity {}, step {}", format::perplexity(best.loss), format::exact(best.step));
        fact(out, "Best held-out loss", &format::loss(best.loss), &more);
    }
    let first = run.steps[0].loss;
    fact(out, "Last training loss", &number(run.last().loss), &format!("from {}", number(first)));
    let (steps, state) = progress(run);
    fact(out, "Steps", &steps, &state);
    let rate = run.tokens() as f64 / run.seconds().max(f64::MIN_POSITIVE);
    let rate = if run.seconds() > 0.0 { format!("{} a second", format::rate(rate)) } else { String::new() };
    fact(out, "Tokens trained on", &format::count(run.tokens()), &rate);
    fact(out, "Time in steps", &time(run.seconds()), "");
    if run.start.parameters > 0 {
        let more = match run.start.trainable {
            trainable if trainable == run.start.parameters => "all trained".to_owned(),
            trainable => format!("{} trained", format::count(trainable)),
        };
        fact(out, "Parameters", &format::count(run.start.parameters), &more);
    }
    out.push_str("</dl>\n");
}

/// One row a run.
fn comparison(out: &mut String, runs: &[Run]) {
    out.push_str("<section class=\"scroll\">\n<h2>Runs</h2>\n<table>\n<thead><tr><th>Run</th><th>Model</th><th>Method</th><th>Device</th>");
    for head in ["Best held-out", "Last training loss", "Steps", "Tokens", "Time"] {
        let _ = write!(out, "<th class=\"number\">{head}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for run in runs {
        let texts = [
            run.name.clone(),
            run.model().unwrap_or_default(),
            run.method().unwrap_or_default(),
            run.start.device.clone(),
        ];
        let numbers = [
            run.best().map_or_else(String::new, |best| format::loss(best.loss)),
            number(run.last().loss),
            progress(run).0,
            format::count(run.tokens()),
            time(run.seconds()),
        ];
        out.push_str("<tr>");
        for text in &texts {
            let _ = write!(out, "<td>{}</td>", escape(text));
        }
        for text in &numbers {
            let _ = write!(out, "<td class=\"number\">{}</td>", escape(text));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

fn loss(out: &mut String, runs: &[Run], log: bool) {
    let scale = if log { " <small>logarithmic</small>" } else { "" };
    let _ = writeln!(out, "<figure>\n<figcaption><h2>Loss{scale}</h2>\n<ul class=\"key\">");
    let mut entry = |class: &str, text: &str| {
        let sign = if class.is_empty() { String::new() } else { format!("<i class=\"{class}\"></i>") };
        let _ = writeln!(out, "<li>{sign}{}</li>", escape(text));
    };
    match runs {
        [run] => {
            match is_smoothed(run) {
                true => {
                    entry("thin c0", "training");
                    entry("c0", "training, smoothed");
                }
                false => entry("c0", "training"),
            }
            if !run.evals.is_empty() {
                entry("dot c1", "held-out");
            }
        }
        runs => {
            runs.iter().enumerate().for_each(|(i, run)| entry(&colour(i), &run.name));
            if runs.iter().any(|run| !run.evals.is_empty()) {
                entry("", "dots: held-out");
            }
        }
    }
    out.push_str("</ul></figcaption>\n");
    let mut chart = |class: &str, size| {
        let chart: Chart = figures::losses(runs, &format!("loss-{class}"), size, log);
        let _ = writeln!(out, "<div class=\"{class}\">\n{}</div>", chart.svg());
    };
    chart("wide", (1000.0, 400.0));
    chart("narrow", (380.0, 300.0));
    out.push_str("</figure>\n");
}

fn of_run(run: &Run, several: bool) -> String {
    if several { format!(" <small>{}</small>", escape(&run.name)) } else { String::new() }
}

fn held_out(out: &mut String, run: &Run, several: bool) {
    if run.evals.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<section>\n<h2>Held-out loss{}</h2>\n<table>\n<thead><tr><th class=\"number\">Step</th><th class=\"number\">Loss</th>\
         <th class=\"number\">Perplexity</th><th>Target tokens</th></tr></thead>\n<tbody>",
        of_run(run, several)
    );
    let left_out = run.evals.len().saturating_sub(KEPT_ROWS);
    let best = run.best().map(|best| best.step);
    for eval in &run.evals[left_out..] {
        let class = if Some(eval.step) == best { " class=\"differs\"" } else { "" };
        let _ = writeln!(
            out,
            "<tr{class}><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td></tr>",
            format::exact(eval.step),
            number(eval.loss),
            format::perplexity(eval.loss),
            format::exact(eval.tokens)
        );
    }
    out.push_str("</tbody>\n</table>\n");
    if left_out > 0 {
        let _ = writeln!(
            out,
            "<p class=\"lead\">The {} before these are in metrics.jsonl.</p>",
            format::exact(left_out as u64)
        );
    }
    out.push_str("</section>\n");
}

fn settings(out: &mut String, runs: &[Run]) {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.settings) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return;
    }
    if let [run] = runs {
        out.push_str("<section>\n<h2>Settings</h2>\n<dl class=\"settings\">\n");
        for (key, value) in &run.settings {
            let _ = writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(key), escape(value));
        }
        out.push_str("</dl>\n</section>\n");
        return;
    }
    out.push_str("<section class=\"scroll\">\n<h2>Settings</h2>\n<table>\n");
    out.push_str("<thead><tr><th></th>");
    for run in runs {
        let _ = write!(out, "<th>{}</th>", escape(&run.name));
    }
    out.push_str("</tr></thead>\n");
    out.push_str("<tbody>\n");
    for key in keys {
        let values: Vec<_> = runs.iter().map(|run| run.setting(key)).collect();
        let differs = values.iter().any(|value| *value != values[0]);
        let _ =
            write!(out, "<tr{}><th>{}</th>", if differs { " class=\"differs\"" } else { "" }, escape(key));
        for value in values {
            let _ = write!(out, "<td>{}</td>", escape(value.unwrap_or("\u{2013}")));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

fn notes(out: &mut String, run: &Run, several: bool) {
    let _ = writeln!(
        out,
        "<section>\n<h2>Events{}</h2>\n<table>\n<thead><tr><th class=\"number\">Step</th><th>What</th></tr></thead>\n<tbody>",
        of_run(run, several)
    );
    for (step, note) in &run.notes {
        let text = match note {
            Note::Begun(device) => format!("<td>began: {}</td>", escape(device)),
            Note::Saved(path) => format!("<td>saved {}</td>", escape(path)),
            Note::Warning(message) => format!("<td class=\"warning\">{}</td>", escape(message)),
            Note::Ended => "<td>ended</td>".into(),
        };
        let _ = writeln!(out, "<tr><td class=\"number\">{}</td>{text}</tr>", format::exact(*step));
    }
    out.push_str("</tbody>\n</table>\n");
    if run.more_notes > 0 {
        let _ = writeln!(
            out,
            "<p class=\"lead\">{} more are in metrics.jsonl.</p>",
            format::exact(run.more_notes as u64)
        );
    }
    if run.damaged > 0 {
        let lines = if run.damaged == 1 { "One line" } else { "Some lines" };
        let _ = writeln!(
            out,
            "<p class=\"lead\">{lines} of metrics.jsonl could not be read ({}): cut off when a process died, or still being \
             written.</p>",
            run.damaged
        );
    }
    out.push_str("</section>\n");
}

//! `finetune report`: runs as a page or a picture.

mod axis;
mod chart;
mod figures;
mod html;
mod page;
mod record;
mod series;

use anyhow::{Context, bail};

use crate::weights::atomic;

use super::args::ReportArgs;
use super::display::Screen;
use record::Run;

/// Reads the runs, writes the page or picture, and tells where.
///
/// # Errors
/// A folder that is no run's, or a file that cannot be written.
pub fn run(args: &ReportArgs, screen: &Screen) -> anyhow::Result<()> {
    let runs: Vec<Run> = args.runs.iter().map(|path| Run::open(path)).collect::<Result<_, _>>()?;
    let (path, text) = match (&args.picture, &runs[..]) {
        (Some(path), [run]) => (path.clone(), figures::picture(run, args.log)),
        (Some(_), _) => bail!("--picture shows one run; give one, or leave it out to compare runs on a page"),
        (None, _) => {
            let beside = || runs[0].path.join("report.html");
            (args.out.clone().unwrap_or_else(beside), page::page(&runs, args.log))
        }
    };
    atomic::write_file(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    screen.named("report", &path.display().to_string());
    Ok(())
}

#[cfg(test)]
mod tests;

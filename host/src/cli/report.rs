//! `finetune report`.

use super::args::ReportArgs;
use super::display::Screen;

/// Reports.
pub fn run(_args: &ReportArgs, _screen: &Screen) -> anyhow::Result<()> {
    Ok(())
}

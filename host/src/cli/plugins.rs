//! `finetune plugins list`: what was found, for a person and for a program.

use std::path::PathBuf;

use anyhow::Context;
use console::{Alignment, measure_text_width, pad_str};

use crate::plugins::{Catalog, DeviceRow, Folders, Job, Measured, Row, Status};

use super::args::{PluginsListArgs, PluginsRetryArgs};
use super::backend::prober;
use super::display::{Screen, format};
use super::output::Output;

/// Lists every candidate on standard output.
///
/// # Errors
/// A folder cannot be read, or standard output cannot be written.
pub fn list(args: &PluginsListArgs) -> anyhow::Result<()> {
    show(args, &catalog(&args.plugins)?)
}

fn show(args: &PluginsListArgs, catalog: &Catalog) -> anyhow::Result<()> {
    let text = if args.json { json(catalog) + "\n" } else { table(catalog) };
    Output::stdout().text(&text).context("cannot write the list to standard output")
}

/// Everything that is there, measured where there is something to choose.
fn catalog(folders: &[PathBuf]) -> anyhow::Result<Catalog> {
    let (prober, screen) = (prober()?, Screen::stderr());
    let mut catalog = Catalog::build(&Folders::new(folders)?, &prober)?;
    if catalog.needs_ranking("auto") {
        catalog.measure(&prober, "auto", &["f32", "bf16"], |what| screen.named("measuring", what));
        catalog.rank_for(&Job::any());
    }
    Ok(catalog)
}

/// Asks a plugin again, and lists what there is then.
///
/// # Errors
/// There is no such plugin; or as [`list`].
pub fn retry(args: &PluginsRetryArgs) -> anyhow::Result<()> {
    let forgotten = prober()?.forget(&args.name);
    let catalog = catalog(&args.list.plugins)?;
    let is_meant = |row: &Row| {
        let file = row.path.file_name().map(|name| name.to_string_lossy());
        row.name.as_deref() == Some(&args.name) || file.as_deref() == Some(&args.name)
    };
    if forgotten == 0 && !catalog.plugins.iter().any(is_meant) {
        anyhow::bail!(
            "there is no plugin {:?} to ask again; `finetune plugins list` lists those there are",
            args.name
        );
    }
    show(&args.list, &catalog)
}

/// One JSON object on one line.
pub fn json(catalog: &Catalog) -> String {
    serde_json::to_string(catalog).expect("strings and numbers")
}

/// A table of the devices by rank, then a line for every file that cannot be used, with the reason.
pub fn table(catalog: &Catalog) -> String {
    if catalog.plugins.is_empty() {
        return format!("{}\n", catalog.nothing_usable());
    }
    let mut devices: Vec<(&Row, &DeviceRow)> =
        catalog.plugins.iter().flat_map(|row| row.devices.iter().map(move |device| (row, device))).collect();
    devices.sort_by_key(|(_, device)| device.rank);
    let mut lines: Vec<Vec<String>> = Vec::new();
    if !devices.is_empty() {
        let heads = ["RANK", "BACK END", "VERSION", "KIND", "MEMORY", "F32", "BF16", "DEVICE"];
        lines.push(heads.map(String::from).to_vec());
    }
    lines.extend(devices.into_iter().map(|(row, device)| cells(row, device)));
    let mut text = aligned(&lines);
    for row in &catalog.plugins {
        let name = row.name.as_deref().unwrap_or("-");
        for device in &row.devices {
            let note = device.note.iter().map(|note| format!("{name}:{} {note}\n", device.device.index));
            text.extend(note.map(|note| printable(note.trim_end()) + "\n"));
        }
    }
    for row in catalog.plugins.iter().filter(|row| row.status != Status::Ready) {
        let name = row.name.as_deref().unwrap_or("-");
        text += &format!("{}: {}: {}", word(row.status), printable(name), printable(&row.explanation()));
        if let Some(when) = row.remembered {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let seconds = now.map_or(0, |now| now.as_secs().saturating_sub(when));
            text += &format!(
                " (found {}; `finetune plugins retry {}` asks again)",
                ago(seconds),
                printable(name)
            );
        }
        text.push('\n');
    }
    text
}

fn cells(row: &Row, found: &DeviceRow) -> Vec<String> {
    let device = &found.device;
    let memory = match (device.memory_total, device.unified) {
        (0, _) => "unknown".into(),
        (total, false) => format::bytes(total),
        (total, true) => format!("{} shared", format::bytes(total)),
    };
    vec![
        found.rank.to_string(),
        format!("{}:{}", row.name.as_deref().unwrap_or("-"), device.index),
        printable(row.version.as_deref().unwrap_or("-")),
        printable(&device.kind),
        memory,
        speed(found, "f32"),
        speed(found, "bf16"),
        printable(&device.name),
    ]
}

/// How fast a device is in an element type, or what else there is to say of it.
fn speed(found: &DeviceRow, dtype: &str) -> String {
    match found.measured.get(dtype) {
        _ if !found.device.dtypes.iter().any(|has| has == dtype) => "no".into(),
        None => "yes".into(),
        Some(Measured::Failed { .. }) => "failed".into(),
        Some(Measured::Speed(speed)) => format!("{} tok/s", format::rate(speed.tokens_per_s)),
    }
}

/// When something was, for a person.
fn ago(seconds: u64) -> String {
    let of = |count: u64, unit: &str| format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
    match seconds {
        0..60 => "a moment ago".into(),
        60..3600 => of(seconds / 60, "minute"),
        3600..86400 => of(seconds / 3600, "hour"),
        _ => of(seconds / 86400, "day"),
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| measure_text_width(&line[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded =
            line.iter().zip(&widths).map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A plugin in one short line: its devices, or why it has none.
pub fn short(row: &Row) -> String {
    let title = match (&row.name, &row.version) {
        (Some(name), Some(version)) => format!("{name} {version}"),
        (Some(name), None) => name.clone(),
        _ => row.path.file_name().unwrap_or(row.path.as_os_str()).to_string_lossy().into_owned(),
    };
    let devices = row.devices.iter().map(|row| match row.device.memory_total {
        0 => row.device.name.clone(),
        memory => format!("{} ({})", row.device.name, format::bytes(memory)),
    });
    printable(&match row.status {
        Status::Ready => format!("{title}, {}", devices.collect::<Vec<_>>().join(", ")),
        status => format!("{title}, {}: {}", word(status), row.reason.as_deref().unwrap_or_default()),
    })
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ready => "ready",
        Status::Unavailable => "unavailable",
        Status::Refused => "refused",
    }
}

/// A plugin's words on one line, without what would steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{PROBE_TIMEOUT, Prober};

    /// A stranger's file must not be able to recolour the table or fake a row.
    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31m\nb"), "a [31m b");
    }

    /// A run begins with a line for each file that was found, also for those that are no plugins.
    #[test]
    fn what_is_no_plugin_has_a_short_line_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = format!("junk.{}", std::env::consts::DLL_EXTENSION);
        std::fs::write(folder.path().join(&file), "junk").expect("written");
        let prober = Prober::with("never started".into(), None, PROBE_TIMEOUT);
        let catalog = Catalog::build(&Folders::given(&[folder.path().into()]), &prober).expect("a catalog");
        let line = short(&catalog.plugins[0]);
        assert!(line.starts_with(&format!("{file}, refused: ")), "{line}");
        assert!(!line.ends_with(": "), "a reason is given: {line}");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        assert_eq!(aligned(&[line("A", "B"), line("long", "é")]), "A     B\nlong  é\n");
    }
}

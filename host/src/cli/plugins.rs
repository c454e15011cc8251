//! `finetune plugins list`.

use anyhow::Context;
use console::{Alignment, measure_text_width, pad_str};

use crate::plugins::{Catalog, DeviceRow, Folders, Row, Status};

use super::args::PluginsListArgs;
use super::backend::{title, word};
use super::display::format;
use super::output::Output;

/// Lists every candidate.
///
/// # Errors
/// A folder cannot be read, or standard output cannot be written.
pub fn list(args: &PluginsListArgs) -> anyhow::Result<()> {
    let catalog = Catalog::build(&Folders::new(&args.plugins)?)?;
    let mut output = Output::stdout();
    let written = match args.json {
        true => output.json(&catalog),
        false if catalog.plugins.is_empty() => output.text(&format!("{}\n", catalog.nothing_usable())),
        false => output.text(&human(&catalog.plugins)),
    };
    written.context("cannot write the list to standard output")
}

/// The devices, the best first, and below them what cannot be used and why.
fn human(rows: &[Row]) -> String {
    let mut devices: Vec<(&Row, &DeviceRow)> =
        rows.iter().flat_map(|row| row.devices.iter().map(move |device| (row, device))).collect();
    devices.sort_by_key(|(_, device)| device.rank);
    let mut text = String::new();
    if !devices.is_empty() {
        let header = ["RANK", "BACK END", "VERSION", "DEVICE", "KIND", "MEMORY", "TYPES", "SCORE"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        table.extend(devices.iter().map(|(row, device)| cells(row, device)));
        if devices.iter().all(|(_, device)| device.score.is_none()) {
            table.iter_mut().for_each(|cells| _ = cells.pop());
        }
        text += &aligned(&table);
    }
    for row in rows.iter().filter(|row| row.status != Status::Ready) {
        if !text.is_empty() && !text.contains("\n\n") {
            text.push('\n');
        }
        text += &format!("{}: {}, {}\n", title(row), word(row.status), row.explanation());
    }
    text
}

fn cells(row: &Row, DeviceRow { device, score, rank }: &DeviceRow) -> Vec<String> {
    let memory = match (device.memory_total, device.memory_available) {
        (0, _) => "unknown".to_owned(),
        (total, 0) => format::bytes(total),
        (total, free) => format!("{} of {} free", format::bytes(free), format::bytes(total)),
    };
    vec![
        rank.to_string(),
        format!("{}:{}", row.name.as_deref().unwrap_or_default(), device.index),
        row.version.clone().unwrap_or_default(),
        device.name.clone(),
        device.kind.clone(),
        memory,
        device.dtypes.join(" "),
        score.map_or_else(|| "-".to_owned(), |score| format!("{score:.1}")),
    ]
}

fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|cells| measure_text_width(&cells[column])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for cells in table {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| pad_str(cell, *width, Alignment::Left, None));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::probe::ProbedDevice;

    fn device(index: u32, name: &str, rank: usize, memory: (u64, u64)) -> DeviceRow {
        let (memory_total, memory_available) = memory;
        let (name, kind, dtypes) = (name.into(), "gpu".into(), vec!["f32".into(), "bf16".into()]);
        let device = ProbedDevice { index, name, kind, memory_total, memory_available, unified: false, dtypes };
        DeviceRow { device, score: None, rank }
    }

    #[test]
    fn the_best_device_comes_first_and_what_is_unusable_last() {
        let gib = 1 << 30;
        let rows = [
            Row {
                status: Status::Ready,
                devices: vec![device(0, "Small", 2, (8 * gib, 0)), device(1, "Größer", 1, (80 * gib, 60 * gib))],
                ..Row::named("/p/liba.so", "a", "1.0.0")
            },
            Row {
                status: Status::Unavailable,
                reason: Some("there is no card".into()),
                ..Row::named("/p/libb.so", "b", "2.0.0")
            },
        ];
        let expected = "\
RANK  BACK END  VERSION  DEVICE  KIND  MEMORY                     TYPES
1     a:1       1.0.0    Größer  gpu   60.0 GiB of 80.0 GiB free  f32 bf16
2     a:0       1.0.0    Small   gpu   8.0 GiB                    f32 bf16

b 2.0.0: unavailable, /p/libb.so: there is no card
";
        assert_eq!(human(&rows), expected);
        assert_eq!(human(&rows[1..]), "b 2.0.0: unavailable, /p/libb.so: there is no card\n");
    }
}

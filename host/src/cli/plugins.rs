//! `finetune plugins list`: what was found, for a person and for a program.

use crate::plugins::{Catalog, DeviceRow, Row, Status};

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
        let heads = ["RANK", "BACK END", "VERSION", "KIND", "MEMORY", "TYPES", "DEVICE"];
        lines.push(heads.map(String::from).to_vec());
    }
    lines.extend(devices.into_iter().map(|(row, device)| cells(row, device)));
    let mut text = aligned(&lines);
    for row in catalog.plugins.iter().filter(|row| row.status != Status::Ready) {
        let name = row.name.as_deref().unwrap_or("-");
        let status = match row.status {
            Status::Unavailable => "unavailable",
            _ => "refused",
        };
        text += &format!("{status}: {}: {}\n", printable(name), printable(&row.explanation()));
    }
    text
}

fn cells(row: &Row, found: &DeviceRow) -> Vec<String> {
    let device = &found.device;
    let memory = match (device.memory_total, device.unified) {
        (0, _) => "unknown".into(),
        (total, false) => gibibytes(total),
        (total, true) => format!("{} shared", gibibytes(total)),
    };
    vec![
        found.rank.to_string(),
        format!("{}:{}", row.name.as_deref().unwrap_or("-"), device.index),
        printable(row.version.as_deref().unwrap_or("-")),
        printable(&device.kind),
        memory,
        printable(&device.dtypes.join(" ")),
        printable(&device.name),
    ]
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A plugin's words on one line, without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger's file must not be able to recolour the table or fake a row.
    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31m\nb"), "a [31m b");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        assert_eq!(aligned(&[line("A", "B"), line("long", "é")]), "A     B\nlong  é\n");
    }
}

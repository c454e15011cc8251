//! From the plugins that were found to the device that is used.

use crate::plugins::{Catalog, Folders, Row, Status};
use crate::train::{Backend, Settings};

use super::display::{Screen, format};

/// Looks for plugins, tells of each, and opens the device that `settings` name.
///
/// # Errors
/// A folder cannot be read, or there is no such device.
pub fn open(settings: &Settings, screen: &Screen) -> anyhow::Result<Backend> {
    let catalog = Catalog::build(&Folders::new(&settings.plugins)?)?;
    for row in &catalog.plugins {
        screen.named("plugin", &short(row));
    }
    let choice = catalog.choose(settings.backend.as_deref().unwrap_or("auto"))?;
    let device = choice.open(&serde_json::Map::new())?;
    Ok(Backend {
        device,
        name: choice.manifest.name,
        device_name: choice.device.name,
        kind: choice.device.kind,
        dtypes: choice.device.dtypes,
    })
}

/// A plugin's name and version, or its file's name where it has told none.
pub fn title(row: &Row) -> String {
    match (&row.name, &row.version) {
        (Some(name), Some(version)) => format!("{name} {version}"),
        (Some(name), None) => name.clone(),
        _ => row.path.file_name().unwrap_or(row.path.as_os_str()).to_string_lossy().into_owned(),
    }
}

/// A status as a word.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Ready => "ready",
        Status::Unavailable => "unavailable",
        Status::Refused => "refused",
    }
}

/// A plugin in a line: its devices, or why it has none.
fn short(row: &Row) -> String {
    let devices = row.devices.iter().map(|row| match row.device.memory_total {
        0 => row.device.name.clone(),
        memory => format!("{} ({})", row.device.name, format::bytes(memory)),
    });
    match row.status {
        Status::Ready => format!("{}, {}", title(row), devices.collect::<Vec<_>>().join(", ")),
        status => format!("{}, {}: {}", title(row), word(status), row.reason.as_deref().unwrap_or("no reason given")),
    }
}

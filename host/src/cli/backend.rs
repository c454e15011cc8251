//! From the plugins that were found to the device that is used.

use crate::plugins::{Catalog, Folders};
use crate::train::{Backend, Settings};

use super::display::Screen;
use super::plugins::{printable, short};

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
        device_name: printable(&choice.device.name),
        kind: choice.device.kind,
        dtypes: choice.device.dtypes,
    })
}

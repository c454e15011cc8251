//! From the plugins that were found to the device that is used.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;

use crate::plugins::{Catalog, Folders, PROBE_TIMEOUT, Prober};
use crate::train::{Backend, Settings};

use super::display::Screen;
use super::plugins::{printable, short};

static TIMEOUT: OnceLock<Duration> = OnceLock::new();

/// Sets how long a plugin may take to answer, for the whole process.
pub fn set_probe_timeout(seconds: f64) {
    let timeout = Duration::try_from_secs_f64(seconds).unwrap_or(PROBE_TIMEOUT);
    let _ = TIMEOUT.set(timeout.max(Duration::from_millis(1)));
}

/// Who asks the plugins.
///
/// # Errors
/// The program does not know its own file.
pub fn prober() -> anyhow::Result<Prober> {
    let timeout = TIMEOUT.get().copied().unwrap_or(PROBE_TIMEOUT);
    Prober::new(timeout).context("plugins are asked by this program itself, which does not know its own file")
}

/// Looks for plugins, tells of each, and opens the device that `settings` name.
///
/// # Errors
/// A folder cannot be read, or there is no such device.
pub fn open(settings: &Settings, screen: &Screen) -> anyhow::Result<Backend> {
    let catalog = Catalog::build(&Folders::new(&settings.plugins)?, &prober()?)?;
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

//! From the plugins that were found to the device that is used.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;

use crate::plugins::{Catalog, Choice, Folders, Job, MEASURE_TIMEOUT, PROBE_TIMEOUT, PluginError, Prober};
use crate::precision::Precision;
use crate::train::{Backend, Demand, PrecisionChoice, Settings};

use super::display::Screen;
use super::plugins::{printable, short};

static TIMEOUTS: OnceLock<(Duration, Duration)> = OnceLock::new();

/// Sets how long a plugin may take to answer and a device to be measured, for the whole process.
pub fn set_timeouts(probe: Duration, measure: Duration) {
    let _ = TIMEOUTS.set((probe, measure));
}

/// Who asks the plugins.
///
/// # Errors
/// The program does not know its own file.
pub fn prober() -> anyhow::Result<Prober> {
    let (probe, measure) = TIMEOUTS.get().copied().unwrap_or((PROBE_TIMEOUT, MEASURE_TIMEOUT));
    let prober = Prober::new(probe).map(|prober| prober.with_measure_timeout(measure));
    prober.context("plugins are asked by this program itself, which does not know its own file")
}

/// Looks for plugins, tells of each, and opens the device that `settings` name, or that ranks first.
///
/// # Errors
/// A folder cannot be read, or there is no such device.
pub fn open(settings: &Settings, screen: &Screen) -> anyhow::Result<Backend> {
    let choices = choices(settings, screen)?;
    Ok(open_choice(choices.first().context("there is a first choice")?)?)
}

/// All devices, those that `settings` may mean first, best first: looks for plugins, tells of each, and measures where there is
/// something to choose.
///
/// # Errors
/// A folder cannot be read, or there is no such device.
pub fn choices(settings: &Settings, screen: &Screen) -> anyhow::Result<Vec<Choice>> {
    let prober = prober()?;
    let mut catalog = Catalog::build(&Folders::new(&settings.plugins)?, &prober)?;
    for row in &catalog.plugins {
        screen.named("plugin", &short(row));
    }
    let backend = settings.backend.as_deref().filter(|backend| !backend.is_empty()).unwrap_or("auto");
    let job = job(settings);
    if catalog.needs_ranking(backend) {
        let dtypes: &[&str] = match settings.precision {
            Some(PrecisionChoice::F32) => &["f32"],
            Some(PrecisionChoice::Bf16) => &["bf16"],
            _ => &["f32", "bf16"],
        };
        catalog.measure(&prober, backend, dtypes, |what| screen.named("measuring", what));
        catalog.renew(&prober, backend);
        foresee(&mut catalog, &job, settings);
        catalog.rank_for(&job);
        for (row, device) in catalog.plugins.iter().flat_map(|row| row.devices.iter().map(move |d| (row, d)))
        {
            if let Some(note) = &device.note {
                let name = row.name.as_deref().unwrap_or_default();
                screen.named("note", &printable(&format!("{name}:{} {note}", device.device.index)));
            }
        }
    }
    Ok(catalog.choices(backend)?)
}

/// What the run asks of each device, where the settings are those of a run. What is wrong with them is said when it
/// begins.
fn foresee(catalog: &mut Catalog, job: &Job, settings: &Settings) {
    let Ok(config) = settings.clone().resolve(PathBuf::new()) else { return };
    let demand = match Demand::of(&config) {
        Ok(demand) => demand,
        Err(error) => return tracing::info!("what the run asks of a device is not foreseen: {error}"),
    };
    catalog.foresee(job, |speed, dtype| {
        let precision = if dtype == "bf16" { Precision::Bf16 } else { Precision::F32 };
        let need = demand.on(speed, precision);
        tracing::info!("foreseen in {dtype} with {} native ops: {need:?}", speed.native.len());
        need.ok()
    });
}

/// Opens one of them.
///
/// # Errors
/// The plugin's file has changed, or the plugin cannot open its device.
pub fn open_choice(choice: &Choice) -> Result<Backend, PluginError> {
    Ok(Backend {
        device: choice.open(&serde_json::Map::new())?,
        name: choice.manifest.name.clone(),
        device_name: printable(&choice.device.name),
        kind: choice.device.kind.clone(),
        dtypes: choice.device.dtypes.clone(),
        unified: choice.device.unified,
    })
}

/// What the settings say of the job before anything of it is opened.
fn job(settings: &Settings) -> Job {
    let dtype = match settings.precision {
        Some(PrecisionChoice::F32) => Some("f32".to_owned()),
        Some(PrecisionChoice::Bf16) => Some("bf16".to_owned()),
        _ => None,
    };
    Job { dtype, bytes: settings.model.as_deref().map_or(0, weight_bytes) }
}

/// The weights' files: no run needs less than these. An estimate for ranking; what is planned is checked exactly
/// before the run begins.
fn weight_bytes(model: &Path) -> u64 {
    let is_weights = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf")
    };
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    if is_weights(model) {
        return size(model);
    }
    let entries = std::fs::read_dir(model).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| is_weights(path)).map(|path| size(&path)).sum()
}

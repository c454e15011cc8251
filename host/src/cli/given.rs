//! What is given is looked at before the devices are: to measure them may take a minute, and a misspelt path is said
//! at once. What is opened here is opened again, and checked in full, where it is used.

use crate::data::Dataset;
use crate::train::Settings;
use crate::train::source::Source;
use crate::weights::peft::PeftAdapter;

/// Whether model, adapter and data are there and of the kind that they should be.
///
/// # Errors
/// The one that would follow later.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    if let Some(model) = &settings.model {
        Source::open(model, 0)?;
    }
    if let Some(adapter) = &settings.adapter {
        PeftAdapter::open(adapter)?;
    }
    for file in settings.data.iter().chain(&settings.valid) {
        Dataset::check_is_file(file)?;
    }
    Ok(())
}

//! Settings as a TOML file: the keys are the names of the flags.

use std::ops::Range;
use std::path::Path;

use clap::Args;
use toml::de::DeTable;

use super::{ConfigError, Settings};

/// Flags of a command that are no settings of a run.
const FLAGS_ONLY: [&str; 6] = ["out", "config", "resume", "json", "step-timeout", "start-timeout"];

impl Settings {
    /// The settings that `text` says, which was read from the file `path`.
    ///
    /// # Errors
    /// What is not TOML, a key that no setting has and a value of the wrong kind, each with its line.
    pub fn from_toml(text: &str, path: &Path) -> Result<Settings, ConfigError> {
        let line = |span: Option<Range<usize>>| span.map_or(1, |s| line_of(text, s.start));
        let table = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
            path: path.to_owned(),
            line: line(e.span()),
            message: e.message().to_owned(),
        })?;
        let known = keys();
        let mut written: Vec<_> =
            table.get_ref().iter().map(|(k, v)| (k.span(), v.span(), k.get_ref())).collect();
        written.sort_by_key(|(key, ..)| key.start);
        for (span, _, key) in &written {
            if FLAGS_ONLY.contains(&key.as_ref()) {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    line: line(Some(span.clone())),
                    key: key.to_string(),
                    message: format!("this is said on the command line, with --{key}"),
                });
            }
            if !known.iter().any(|k| k == key.as_ref()) {
                return Err(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    line: line(Some(span.clone())),
                    key: key.to_string(),
                    nearest: nearest(key, &known),
                });
            }
        }
        let settings: Settings = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            let key = written.iter().rfind(|(key, ..)| key.start <= at);
            ConfigError::Value {
                path: path.to_owned(),
                line: line(e.span()),
                key: key.map_or_else(String::new, |(.., key)| key.to_string()),
                message: e.message().to_owned(),
            }
        })?;
        if settings.steps.is_some() && settings.epochs.is_some() {
            return Err(ConfigError::TwoLengths { path: path.to_owned() });
        }
        Ok(settings)
    }

    /// The settings as a file that [`Settings::from_toml`] reads back as the same.
    ///
    /// # Errors
    /// [`ConfigError::Encode`] if a path cannot be written.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|e| ConfigError::Encode(e.to_string()))
    }
}

/// The keys of a file: the flags of [`Settings`], by their names.
pub(super) fn keys() -> Vec<String> {
    let command = Settings::augment_args(clap::Command::new("settings"));
    command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// The line, from 1, on which byte `at` of `text` is.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// The known key that `key` was likely meant to be.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let key = key.to_lowercase().replace('_', "-");
    let likeness = |k: &String| strsim::jaro_winkler(&key, k);
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then(|| best.clone())
}

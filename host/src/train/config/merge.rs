//! Laying settings over others.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::any_path::AnyPath;

use super::{ConfigError, Settings};

/// What may be another in a resumed run: how long it goes on, how it is computed and recorded, but not what it
/// learns.
const MAY_CHANGE: [&str; 11] = [
    "steps",
    "epochs",
    "micro-batch",
    "valid",
    "save-every",
    "eval-every",
    "backend",
    "plugins",
    "reserve",
    "verify",
    "strict",
];

impl Settings {
    /// These settings where they say something, `under` elsewhere. Either length, in steps or in epochs,
    /// replaces the other below it.
    pub fn overlay(self, under: Settings) -> Settings {
        let (steps, epochs) = match (self.steps, self.epochs) {
            (None, None) => (under.steps, under.epochs),
            said => said,
        };
        Settings {
            model: self.model.or(under.model),
            data: self.data.or(under.data),
            valid: self.valid.or(under.valid),
            chat_template: self.chat_template.or(under.chat_template),
            method: self.method.or(under.method),
            rank: self.rank.or(under.rank),
            alpha: self.alpha.or(under.alpha),
            targets: self.targets.or(under.targets),
            dropout: self.dropout.or(under.dropout),
            adapter: self.adapter.or(under.adapter),
            batch: self.batch.or(under.batch),
            micro_batch: self.micro_batch.or(under.micro_batch),
            seq_len: self.seq_len.or(under.seq_len),
            steps,
            epochs,
            lr: self.lr.or(under.lr),
            schedule: self.schedule.or(under.schedule),
            warmup: self.warmup.or(under.warmup),
            weight_decay: self.weight_decay.or(under.weight_decay),
            beta1: self.beta1.or(under.beta1),
            beta2: self.beta2.or(under.beta2),
            eps: self.eps.or(under.eps),
            clip: self.clip.or(under.clip),
            seed: self.seed.or(under.seed),
            no_shuffle: self.no_shuffle.or(under.no_shuffle),
            precision: self.precision.or(under.precision),
            backend: self.backend.or(under.backend),
            plugins: if self.plugins.is_empty() { under.plugins } else { self.plugins },
            save_every: self.save_every.or(under.save_every),
            eval_every: self.eval_every.or(under.eval_every),
            reserve: self.reserve.or(under.reserve),
            verify: self.verify.or(under.verify),
            strict: self.strict.or(under.strict),
        }
    }

    /// The settings with which a run goes on that was started with `saved`, which is
    /// [complete](Settings::complete): what these say must agree with it, except length, micro-batch,
    /// held-out data, records, back end, plugins and what is
    /// done if it fails. Both sides' paths are compared as written, so make them
    /// [absolute](Settings::absolute) first.
    ///
    /// # Errors
    /// [`ConfigError::Changed`] for the first flag that does not agree.
    pub fn resume_from(self, saved: Settings) -> Result<Settings, ConfigError> {
        let (given, before) = (self.entries()?, saved.entries()?);
        for (flag, value) in &given {
            let was = before.get(flag);
            if !MAY_CHANGE.contains(&flag.as_str()) && was != Some(value) {
                return Err(ConfigError::Changed {
                    flag: flag.clone(),
                    saved: was.map_or_else(|| "none".to_owned(), said),
                    given: said(value),
                });
            }
        }
        Ok(self.overlay(saved))
    }

    /// The same settings with relative paths made absolute, so that they mean the same elsewhere.
    ///
    /// # Errors
    /// [`ConfigError::WorkingDirectory`].
    pub fn absolute(mut self) -> Result<Settings, ConfigError> {
        let named =
            [&mut self.model, &mut self.data, &mut self.valid, &mut self.chat_template, &mut self.adapter];
        for path in named.into_iter().flatten().chain(&mut self.plugins) {
            *path = absolute(path)?;
        }
        Ok(self)
    }

    fn entries(&self) -> Result<Map<String, Value>, ConfigError> {
        match serde_json::to_value(self).map_err(|e| ConfigError::Encode(e.to_string()))? {
            Value::Object(entries) => Ok(entries),
            other => Err(ConfigError::Encode(format!("{other} has no keys"))),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    // An empty path has no absolute form; whoever opens it says that it is not there.
    if path.as_os_str().is_empty() {
        return Ok(path.to_owned());
    }
    std::path::absolute(path).map_err(ConfigError::WorkingDirectory)
}

/// A value as a person would write it on the command line.
fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // A path that is not Unicode.
        Value::Array(_) => match AnyPath::deserialize(value) {
            Ok(AnyPath(path)) => path.display().to_string(),
            Err(_) => value.to_string(),
        },
        other => other.to_string(),
    }
}

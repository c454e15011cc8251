//! Defaults and checks.

use std::path::PathBuf;

use super::{ConfigError, Length, Method, PrecisionChoice, RunConfig, ScheduleKind, Settings, Size};

/// The longest example, in positions, that is trained on where nothing else is said.
pub const SEQ_LEN: usize = 512;
/// The examples of a step where nothing else is said.
pub const BATCH: usize = 8;

/// A setting's name and value, whether it can be used, and what it must be.
type Rule = (&'static str, Option<f64>, fn(f64) -> bool, &'static str);

/// Products of sizes stay far from overflow.
const LARGEST_SIZE: usize = 1 << 24;

impl Settings {
    /// The same settings with every default written out, except of what has none: model, data, held-out data
    /// and adapter, and the adapter's rank, alpha and targets where they come from `adapter`.
    pub fn complete(self) -> Settings {
        let method = self.method.unwrap_or(Method::Lora);
        let fresh = method == Method::Lora && self.adapter.is_none();
        let batch = self.batch.unwrap_or(BATCH);
        let epochs = if self.steps.is_none() { Some(self.epochs.unwrap_or(1)) } else { self.epochs };
        Settings {
            method: Some(method),
            rank: self.rank.or(fresh.then_some(8)),
            alpha: self.alpha.or(fresh.then_some(16.0)),
            targets: self.targets.or_else(|| fresh.then(|| "all-linear".to_owned())),
            dropout: self.dropout.or(fresh.then_some(0.0)),
            batch: Some(batch),
            micro_batch: Some(self.micro_batch.unwrap_or(batch).min(batch)),
            seq_len: Some(self.seq_len.unwrap_or(SEQ_LEN)),
            epochs,
            lr: Some(self.lr.unwrap_or(match method {
                Method::Lora => 2e-4,
                Method::Full => 2e-5,
            })),
            schedule: Some(self.schedule.unwrap_or(ScheduleKind::Constant)),
            warmup: Some(self.warmup.unwrap_or(0)),
            weight_decay: Some(self.weight_decay.unwrap_or(0.0)),
            beta1: Some(self.beta1.unwrap_or(0.9)),
            beta2: Some(self.beta2.unwrap_or(0.999)),
            eps: Some(self.eps.unwrap_or(1e-8)),
            clip: Some(self.clip.unwrap_or(1.0)),
            seed: Some(self.seed.unwrap_or(0)),
            no_shuffle: Some(self.no_shuffle.unwrap_or(false)),
            precision: Some(self.precision.unwrap_or(PrecisionChoice::Auto)),
            backend: Some(self.backend.unwrap_or_else(|| "auto".to_owned())),
            save_every: Some(self.save_every.unwrap_or(100)),
            eval_every: Some(self.eval_every.unwrap_or(0)),
            verify: Some(self.verify.unwrap_or(false)),
            strict: Some(self.strict.unwrap_or(false)),
            ..self
        }
    }

    /// The run that these settings ask for, in the folder `out`.
    ///
    /// # Errors
    /// What is missing, out of its range, or for adapters where none is trained.
    pub fn resolve(self, out: PathBuf) -> Result<RunConfig, ConfigError> {
        self.check_adapter_flags()?;
        let s = self.complete();
        s.check_counts()?;
        s.check_reals()?;
        let length = match (s.steps, s.epochs) {
            (Some(_), Some(_)) => {
                return Err(invalid("steps", "given with `epochs`", "a run has one length"));
            }
            (Some(steps), None) => Length::Steps(steps),
            (None, epochs) => Length::Epochs(set(epochs, "epochs")?),
        };
        Ok(RunConfig {
            model: set(s.model, "model")?,
            data: set(s.data, "data")?,
            valid: s.valid,
            chat_template: s.chat_template,
            out,
            method: set(s.method, "method")?,
            rank: s.rank,
            alpha: s.alpha,
            targets: s.targets,
            dropout: s.dropout,
            adapter: s.adapter,
            batch: set(s.batch, "batch")?,
            micro_batch: set(s.micro_batch, "micro-batch")?,
            seq_len: set(s.seq_len, "seq-len")?,
            length,
            lr: set(s.lr, "lr")?,
            schedule: set(s.schedule, "schedule")?,
            warmup: set(s.warmup, "warmup")?,
            weight_decay: set(s.weight_decay, "weight-decay")?,
            beta1: set(s.beta1, "beta1")?,
            beta2: set(s.beta2, "beta2")?,
            eps: set(s.eps, "eps")?,
            clip: set(s.clip, "clip")?,
            seed: set(s.seed, "seed")?,
            shuffle: !set(s.no_shuffle, "no-shuffle")?,
            precision: set(s.precision, "precision")?,
            save_every: set(s.save_every, "save-every")?,
            eval_every: set(s.eval_every, "eval-every")?,
            reserve: s.reserve.map(Size::bytes),
            verify: set(s.verify, "verify")?,
            strict: set(s.strict, "strict")?,
        })
    }

    fn check_adapter_flags(&self) -> Result<(), ConfigError> {
        if self.method != Some(Method::Full) {
            return Ok(());
        }
        let given = [
            ("rank", self.rank.is_some()),
            ("alpha", self.alpha.is_some()),
            ("targets", self.targets.is_some()),
            ("dropout", self.dropout.is_some()),
            ("adapter", self.adapter.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(ConfigError::NeedsLora { flag }),
            None => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("rank", self.rank),
            ("batch", self.batch),
            ("micro-batch", self.micro_batch),
            ("seq-len", self.seq_len),
        ];
        let lengths = [("steps", self.steps), ("epochs", self.epochs)];
        let at_least_one =
            sizes.map(|(flag, size)| (flag, size.map(|n| n as u64))).into_iter().chain(lengths);
        for (flag, count) in at_least_one.clone() {
            if count == Some(0) {
                return Err(invalid(flag, 0, "it must be at least 1"));
            }
        }
        for (flag, size) in sizes {
            if let Some(n) = size.filter(|n| *n > LARGEST_SIZE) {
                return Err(invalid(flag, n, "it must be at most 16777216"));
            }
        }
        let others = [
            ("warmup", self.warmup),
            ("seed", self.seed),
            ("save-every", self.save_every),
            ("eval-every", self.eval_every),
        ];
        for (flag, count) in at_least_one.chain(others) {
            // TOML's integers are signed, and a run's settings are kept as TOML.
            if let Some(n) = count.filter(|n| i64::try_from(*n).is_err()) {
                return Err(invalid(flag, n, "it must be at most 9223372036854775807"));
            }
        }
        match &self.targets {
            Some(names) if names.split(',').any(|name| name.trim().is_empty()) => Err(invalid(
                "targets",
                format!("\"{names}\""),
                "it must be all-linear, attention, or names of layers with commas between them",
            )),
            _ => Ok(()),
        }
    }

    fn check_reals(&self) -> Result<(), ConfigError> {
        const NOT_NEGATIVE: &str = "it must be a number, 0 or greater";
        const POSITIVE: &str = "it must be a number greater than 0";
        const SHARE: &str = "it must be a number from 0 to below 1";
        let not_negative: fn(f64) -> bool = |x| x.is_finite() && x >= 0.0;
        let positive: fn(f64) -> bool = |x| x.is_finite() && x > 0.0;
        let share: fn(f64) -> bool = |x| (0.0..1.0).contains(&x);
        let rules: [Rule; 8] = [
            ("alpha", self.alpha, positive, POSITIVE),
            ("dropout", self.dropout, share, SHARE),
            ("lr", self.lr, not_negative, NOT_NEGATIVE),
            ("weight-decay", self.weight_decay, not_negative, NOT_NEGATIVE),
            ("beta1", self.beta1, share, SHARE),
            ("beta2", self.beta2, share, SHARE),
            ("eps", self.eps, positive, POSITIVE),
            ("clip", self.clip, not_negative, "it must be a number, 0 (no limit) or greater"),
        ];
        for (flag, value, holds, rule) in rules {
            if let Some(value) = value.filter(|x| !holds(*x)) {
                return Err(invalid(flag, value, rule));
            }
        }
        Ok(())
    }
}

fn set<T>(value: Option<T>, flag: &'static str) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { flag })
}

fn invalid(flag: &'static str, value: impl ToString, rule: &'static str) -> ConfigError {
    ConfigError::Invalid { flag, value: value.to_string(), rule }
}

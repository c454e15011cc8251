//! Which modules of a model an adapter is on.

use std::fmt;

use fancy_regex::Regex;

use crate::weights::WeightsError;

/// The modules that a config names, by PEFT's rules. A module's path is that of the model without any
/// wrapper: `model.layers.0.self_attn.q_proj`.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetSpec {
    /// Every linear layer but the head. Which modules those are, the caller knows.
    AllLinear,
    /// Modules whose path is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole path the pattern matches.
    Regex(ModulePattern),
}

impl TargetSpec {
    /// Reads what a config has as a string: `all-linear` in any case, else a regular expression.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if it is no valid regular expression.
    pub fn from_string(text: &str) -> Result<Self, WeightsError> {
        if text.eq_ignore_ascii_case("all-linear") {
            return Ok(Self::AllLinear);
        }
        ModulePattern::full_match(text).map(Self::Regex)
    }

    /// Whether the module at `path` is meant. [`AllLinear`](Self::AllLinear) says yes to all: the caller asks
    /// for linear layers other than the head only.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if matching the expression takes too many steps.
    pub fn matches(&self, path: &str) -> Result<bool, WeightsError> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| is_or_ends_with(path, name))),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

fn is_or_ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A regular expression over module paths, with the look-arounds that Python's have. Equal if written alike.
#[derive(Clone)]
pub struct ModulePattern {
    source: String,
    regex: Regex,
}

impl ModulePattern {
    /// A pattern that has to match the whole path, as `target_modules` has.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if it is no valid regular expression.
    pub fn full_match(source: &str) -> Result<Self, WeightsError> {
        Self::compile(source, &format!(r"\A(?:{source})\z"))
    }

    /// A pattern that has to match the path from some dot (or the start) to the end, as the keys of
    /// `rank_pattern` and `alpha_pattern` have.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if it is no valid regular expression.
    pub fn path_end(source: &str) -> Result<Self, WeightsError> {
        Self::compile(source, &format!(r"\A(?:.*\.)?(?:{source})\z"))
    }

    fn compile(source: &str, anchored: &str) -> Result<Self, WeightsError> {
        // By itself first: `a)(b` would become valid between the anchors' parentheses.
        let regex = Regex::new(source).and_then(|_| Regex::new(anchored));
        let regex = regex.map_err(|error| pattern_error(source, &error))?;
        Ok(Self { source: source.to_string(), regex })
    }

    /// The expression as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the module at `path` is meant.
    ///
    /// # Errors
    /// [`WeightsError::Pattern`] if matching takes too many steps.
    pub fn matches(&self, path: &str) -> Result<bool, WeightsError> {
        self.regex.is_match(path).map_err(|error| pattern_error(&self.source, &error))
    }
}

fn pattern_error(source: &str, error: &fancy_regex::Error) -> WeightsError {
    WeightsError::Pattern { pattern: source.to_string(), problem: error.to_string() }
}

impl PartialEq for ModulePattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for ModulePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

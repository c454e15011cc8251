//! What can be wrong with a run's settings.

use std::path::PathBuf;

use thiserror::Error;

/// What is wrong with a run's settings, as a sentence for the person who made them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Something that has no default was not said.
    #[error("`--{flag}` is missing; give it on the command line, or as `{flag} = …` in the file of --config")]
    Missing {
        /// The flag, without its dashes.
        flag: &'static str,
    },
    /// A value that cannot be used.
    #[error("`{flag}` is {value}, but {rule}")]
    Invalid {
        /// The flag, without its dashes.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A setting of adapters where none is trained.
    #[error(
        "`{flag}` is for adapters, and `method` is full; leave `{flag}` out, or train with --method lora"
    )]
    NeedsLora {
        /// The flag, without its dashes.
        flag: &'static str,
    },
    /// Two settings of which one may be given.
    #[error("{path}: both `steps` and `epochs` are given, but a run has one length; remove one of them")]
    TwoLengths {
        /// The config file.
        path: PathBuf,
    },
    /// A resumed run was given another value than it was started with.
    #[error(
        "`--{flag}` is {given}, but the run was started with {saved}; leave the flag out to go on with \
         the run, or start a new one in another folder"
    )]
    Changed {
        /// The flag, without its dashes.
        flag: String,
        /// What the run was started with.
        saved: String,
        /// What is given now.
        given: String,
    },
    /// A key that no setting has.
    #[error("{path}, line {line}: there is no setting `{key}`{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean `{n}`?")))]
    UnknownKey {
        /// The config file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The setting whose name is most like it.
        nearest: Option<String>,
    },
    /// A key that does not have the right kind of value.
    #[error("{path}, line {line}: `{key}`: {message}")]
    Value {
        /// The config file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A file that is not TOML.
    #[error("{path}, line {line}: this is not TOML: {message}")]
    Syntax {
        /// The config file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Settings that cannot be written as a file.
    #[error("the settings cannot be written as a file: {0}")]
    Encode(String),
    /// A path that cannot be made absolute.
    #[error("the working directory cannot be found, which relative paths begin at")]
    WorkingDirectory(#[source] std::io::Error),
}

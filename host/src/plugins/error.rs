use std::io;
use std::path::PathBuf;

use finetune_plugin_api::abi::ErrorKind;

/// Why no back end could be chosen or opened.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A folder that someone named cannot be searched.
    #[error("the plugins folder {} cannot be read: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The environment names a folder relative to the working directory.
    #[error(
        "{} names the folder {}; folders there must be absolute, plugins are never taken from the working directory",
        super::discover::PATH_VARIABLE,
        .0.display()
    )]
    RelativeFolder(PathBuf),
    /// There is nothing to choose from.
    #[error("{0}")]
    NothingUsable(String),
    /// The back end that was asked for is not there, cannot be used, or has no such device.
    #[error("{0}")]
    NoSuchBackend(String),
    /// A library cannot be used as a plugin.
    #[error("{} {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, as the end of a sentence.
        reason: String,
    },
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A failed call of a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("back end {plugin}: {}: {message}", kind.words())]
pub struct DeviceError {
    /// The back end's name.
    pub plugin: String,
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// The plugin's sentence.
    pub message: String,
    /// Whether every buffer that the call was to write still holds what it held before.
    pub state_untouched: bool,
}

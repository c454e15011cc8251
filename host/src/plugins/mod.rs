//! Compute back ends: found, read, loaded, asked and ranked. Knows nothing of models and training.
//!
//! A file named like a library is a candidate ([`discover`]); its [`manifest`] is read as data; if that promises
//! an interface that this host knows, the library is loaded and asked for devices ([`probe`]). All of it ends as
//! a [`Catalog`], in which a file that is no usable plugin is a row with the reason. [`Catalog::choose`] picks a
//! device, [`Choice::open`] gives it as a [`Device`].

mod binary;
mod catalog;
mod device;
pub mod discover;
mod error;
mod load;
pub mod manifest;
pub mod probe;
mod rank;

pub use catalog::{Catalog, Choice, DeviceRow, Row, Status};
pub use device::{Buffer, Compiled, Device, SharedBytes};
pub use discover::Folders;
pub use error::{DeviceError, PluginError};

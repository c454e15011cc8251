//! Compute back ends: found, read, loaded, asked and ranked. Knows nothing of models and training.
//!
//! A file named like a library is a candidate ([`discover`]); if nobody else may have written it (`trust`), its
//! [`manifest`] is read as data; if that promises an interface that this host knows and all that the library needs is
//! there (`needs`), a child process loads it and asks it for devices ([`probe`], `child`, `worker`), once (`cache`).
//! All of it ends as a [`Catalog`], in which a file that is no usable plugin is a row with the reason. Devices are
//! measured, in children too, and ranked; [`Catalog::choose`] picks one, [`Choice::open`] gives it as a [`Device`].

mod binary;
mod cache;
mod catalog;
#[cfg(unix)]
mod child;
mod device;
pub mod discover;
mod error;
mod examine;
mod leave;
mod load;
pub mod manifest;
mod measure;
mod needs;
#[cfg(unix)]
mod orphans;
pub mod probe;
mod prober;
#[cfg(unix)]
pub(crate) mod process;
mod rank;
mod row;
mod trust;
#[cfg(unix)]
mod worker;

pub use cache::{Measured, Speed};
pub use catalog::{Catalog, Choice};
pub use device::{Buffer, Compiled, Device, SharedBytes};
pub use discover::Folders;
pub use error::{DeviceError, PluginError};
pub use leave::leave;
pub use prober::{MEASURE_TIMEOUT, PROBE_TIMEOUT, Prober, Unmeasured};
pub use rank::{Job, Need};
pub use row::{DeviceRow, Row, Status};
pub use trust::privileges_are_raised;
#[cfg(unix)]
pub use {child::SUBCOMMAND as CHILD_SUBCOMMAND, prober::answer_as_child};

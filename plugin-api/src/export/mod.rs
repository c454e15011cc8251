//! How a plugin is written: two traits, one macro, no `unsafe`.
//!
//! ```text
//! struct MyPlugin;
//! impl Plugin for MyPlugin { .. }      // finds devices, opens one
//! impl Device for MyDevice { .. }      // buffers, compile, run
//! finetune_plugin_api::export_plugin! { plugin: MyPlugin, name: "mine", vendor: "me", description: ".." }
//! ```
//!
//! in a crate with `crate-type = ["cdylib"]`. `examples/tiny.rs` of this crate is a complete plugin.
//!
//! What the exporter does, so that a plugin need not:
//!
//! - it holds buffers and compiled programs, and turns stale handles into errors;
//! - it parses and validates programs; a device gets a [`Program`];
//! - it checks what is bound to a run against the program (number, types, no buffer written that is bound
//!   twice), and ranges of uploads and downloads;
//! - it keeps account of poison: see [`DeviceApi`](crate::abi::DeviceApi);
//! - it turns a panic into an [`Error`] of the kind `internal`. So a plugin cannot be built with
//!   `panic = "abort"`.
//!
//! What a plugin has to do at the end of its work, it does when its device is dropped: the library is never unloaded,
//! and the process ends without `atexit` handlers and destructors of statics.
//!
//! A device whose objects belong to the thread that made them is exported with `thread: owned`: it is then
//! opened, used and dropped on one thread of its own, and neither it nor its buffers need be [`Send`].

mod describe;
mod driver;
mod error;
mod guard;
mod library;
mod macros;
mod meter;
mod object;
mod poison;
mod session;
mod slab;
mod staged;
mod thread;

#[doc(hidden)]
pub use abi_stable::library::LibHeader;
pub use describe::{DeviceDescription, HostBytes, JsonObject, Options};
pub use error::Error;
pub use library::{AnyThread, OwnThread, Threading, module};
#[doc(hidden)]
pub use library::{ROOT_MODULE_SYMBOL, header};
pub use meter::{Lease, Meter};
pub use serde_json;
pub use staged::Staged;

pub use crate::abi::{ErrorKind, Extension, MemoryInfo};
use crate::program::{Program, TensorType};

/// A back end: finds devices and opens them.
pub trait Plugin: 'static {
    /// What [`Plugin::open`] gives.
    type Device: Device;

    /// Looks for devices; the position in the list is the index that [`Plugin::open`] gets. It must not claim
    /// them or print anything. Where there is none, an error of the kind [`ErrorKind::Unavailable`] with the
    /// reason (`libcuda.so.1 is not installed`) is better than an empty list.
    fn probe() -> Result<Vec<DeviceDescription>, Error>;

    /// Opens a device.
    fn open(index: u32, options: &Options) -> Result<Self::Device, Error>;

    /// An [`Extension`] of the plugin itself, if it has one of that name.
    fn extension(_name: &str) -> Option<Extension> {
        None
    }
}

/// An open device. Calls come one at a time; with `thread: owned` all from one thread.
///
/// An error or a panic leaves the device open: the host may go on with it, so calls should leave it usable or
/// answer [`ErrorKind::DeviceLost`] from then on.
pub trait Device: 'static {
    /// A tensor on the device.
    type Buffer: 'static;
    /// A program as the device runs it.
    type Compiled: 'static;

    /// Whether [`Device::run`] may return before its work is done, so that a failure of it can show in a later
    /// call. If `false`, an error poisons nothing but what its own call was to write. If `true`, the host submits a
    /// training step before it downloads the results of the step before: a download had better not wait for it.
    const ASYNCHRONOUS: bool = true;

    /// Names of the composite ops that [`Device::compile`] takes as they are, and of their optional results as
    /// `op.result` (`attention.lse`). All core ops must be there and are not listed.
    fn ops(&self) -> Vec<&'static str>;

    /// Facts that do not change while the device is open, such as the version of the library underneath.
    fn properties(&self) -> JsonObject {
        JsonObject::new()
    }

    /// A new buffer; its contents are undefined.
    fn allocate(&mut self, ty: &TensorType) -> Result<Self::Buffer, Error>;

    /// A new buffer over host memory of exactly `ty.bytes()` bytes, which it may keep and read, or copy and
    /// drop. It is never written. The bytes need not be aligned.
    fn adopt(&mut self, ty: &TensorType, memory: HostBytes) -> Result<Self::Buffer, Error> {
        let mut buffer = self.allocate(ty)?;
        self.upload(&mut buffer, 0, memory.as_slice())?;
        Ok(buffer)
    }

    /// Writes `bytes` (row major, little endian) into a buffer from the byte `offset` on. The range is inside
    /// the buffer.
    fn upload(&mut self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error>;

    /// Reads from a buffer from the byte `offset` on, when the work that writes it is done. The range is inside
    /// the buffer.
    fn download(&mut self, buffer: &Self::Buffer, offset: usize, into: &mut [u8]) -> Result<(), Error>;

    /// Compiles a program. It holds core ops and those that [`Device::ops`] names.
    fn compile(&mut self, program: Program) -> Result<Self::Compiled, Error>;

    /// What is worth knowing about a compiled program: `workspace_bytes`, what a run needs besides its buffers.
    fn details(&self, _compiled: &Self::Compiled) -> JsonObject {
        JsonObject::new()
    }

    /// Runs a program. `arguments` and `outputs` are in the order of [`Program::args`] and
    /// [`Program::outputs`] and of their types. May return before the work is done.
    ///
    /// State is updated in place through [`Bound::Mut`]. An error means that state and outputs may hold
    /// anything, unless it is [`Error::untouched`].
    fn run(
        &mut self,
        compiled: &mut Self::Compiled,
        arguments: &mut [Bound<'_, Self::Buffer>],
        outputs: &mut [&mut Self::Buffer],
    ) -> Result<(), Error>;

    /// Memory figures as they are now; they cost little and wait for nothing, the host asks every step.
    fn memory(&mut self) -> Result<MemoryInfo, Error>;

    /// Sets the peak to what is in use now.
    fn reset_peak(&mut self) -> Result<(), Error>;

    /// Waits until all work is done; reports the failure of a run that had returned before.
    fn synchronize(&mut self) -> Result<(), Error>;

    /// An [`Extension`] of this device, if it has one of that name.
    fn extension(&mut self, _name: &str) -> Option<Extension> {
        None
    }
}

/// A buffer bound to an argument of a program.
#[derive(Debug)]
pub enum Bound<'a, B> {
    /// To an input or a parameter; the same buffer may be bound to others of them.
    Shared(&'a B),
    /// To a state; nothing else in this run is bound to the buffer.
    Mut(&'a mut B),
}

impl<B> Bound<'_, B> {
    /// The buffer, to read.
    pub fn get(&self) -> &B {
        match self {
            Bound::Shared(buffer) => buffer,
            Bound::Mut(buffer) => buffer,
        }
    }

    /// The buffer, to write, if it is bound to a state.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        match self {
            Bound::Shared(_) => None,
            Bound::Mut(buffer) => Some(buffer),
        }
    }
}

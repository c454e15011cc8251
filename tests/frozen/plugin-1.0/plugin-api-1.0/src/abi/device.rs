use abi_stable::StableAbi;
use abi_stable::sabi_trait;
use abi_stable::std_types::{RBox, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

use super::{AbiError, Extension};

/// The key in a device's properties that says, by `true`, that [`DeviceApi::run`] may return before its work is done.
/// The exporter writes it.
pub const PROPERTY_ASYNCHRONOUS: &str = "asynchronous";

/// What a device's memory holds. All in bytes; 0 where the plugin cannot know.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, StableAbi)]
pub struct MemoryInfo {
    /// In use by this device object: buffers, and the workspace of compiled programs.
    pub used: u64,
    /// The largest `used` since the device was opened or the peak was reset.
    pub peak: u64,
    /// Held for reuse but not in use.
    pub cached: u64,
    /// All memory that the device has.
    pub total: u64,
    /// What could still be allocated now, by anyone.
    pub available: u64,
}

/// A compiled program.
#[repr(C)]
#[derive(Clone, Debug, StableAbi)]
pub struct CompiledInfo {
    /// What [`DeviceApi::run`] and [`DeviceApi::release`] call it.
    pub id: u64,
    /// A JSON object; `workspace_bytes` is what a run needs besides its buffers.
    pub details: RString,
}

/// Bytes that the host lends to a plugin, such as a mapped file of weights. The plugin may hold the object,
/// and read the bytes, for as long as it likes; dropping it gives them back.
#[sabi_trait]
pub trait HostMemory: Send + Sync + 'static {
    /// The bytes: the same ones at every call, until the object is dropped.
    #[sabi(last_prefix_field)]
    fn bytes(&self) -> RSlice<'_, u8>;
}

/// A [`HostMemory`] that is owned.
pub type HostMemoryBox = HostMemory_TO<RBox<()>>;

/// An open device.
///
/// Calls come one at a time, but not always from the same thread. None of them unwinds. Buffers and compiled
/// programs are named by numbers that the plugin chooses; 0 is never one. A number is not used again for
/// something else soon, so that a stale one is an error and not another's data.
///
/// Work is done in the order of the calls. [`run`](DeviceApi::run) may return before it is done; its failure
/// is then reported by a later `download` or `synchronize`. The host may upload into a buffer that an earlier run
/// still reads: that run reads what was there before. On a device whose runs return early, the host submits the next
/// step before it reads the last one's outputs; a `download` should wait for the work that writes its buffer and for
/// nothing after it.
///
/// **Poison.** After a failed `upload`, `run`, `download` or `synchronize`, each buffer that was to be written
/// and may not have been (all that were written by runs since the last successful `synchronize`) is poisoned,
/// unless the error says `state_untouched`: using it as an argument or downloading it is an error until all of
/// it has been uploaded again or it has been the output of a successful run.
#[sabi_trait]
pub trait DeviceApi: Send + 'static {
    /// Names of the composite ops that the device has natively, and of their optional results as `op.result`:
    /// `attention`, `attention.lse`. The host writes the others as simpler ones before it compiles.
    fn ops(&mut self) -> RResult<RVec<RString>, AbiError>;

    /// A JSON object of facts that do not change while the device is open. [`PROPERTY_ASYNCHRONOUS`] and `plan` mean
    /// something to the host.
    fn properties(&mut self) -> RResult<RString, AbiError>;

    /// A new buffer of that element type (its name in the text form) and shape. Its contents are undefined
    /// until they are written.
    fn allocate(&mut self, dtype: RStr<'_>, shape: RSlice<'_, u64>) -> RResult<u64, AbiError>;

    /// A new read-only buffer over memory of the host, row major, little endian. It can be bound to inputs and
    /// parameters and be downloaded. The plugin may copy the bytes and drop `memory` at once.
    fn adopt(
        &mut self,
        dtype: RStr<'_>,
        shape: RSlice<'_, u64>,
        memory: HostMemoryBox,
    ) -> RResult<u64, AbiError>;

    /// Writes into a buffer from that byte offset on. The bytes are taken before the call returns.
    fn upload(&mut self, buffer: u64, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), AbiError>;

    /// Reads from a buffer from that byte offset on; waits for the work that writes it.
    fn download(&mut self, buffer: u64, offset: u64, into: RSliceMut<'_, u8>) -> RResult<(), AbiError>;

    /// Gives a buffer back. Work under way that uses it is not disturbed.
    fn free(&mut self, buffer: u64) -> RResult<(), AbiError>;

    /// Compiles a program from its text form. `options` is a JSON object.
    fn compile(&mut self, program: RStr<'_>, options: RStr<'_>) -> RResult<CompiledInfo, AbiError>;

    /// Gives a compiled program back.
    fn release(&mut self, compiled: u64) -> RResult<(), AbiError>;

    /// Runs a program on buffers: one for each argument and one for each output, in the program's order and of
    /// its types. A buffer that is bound to a state or an output is bound to nothing else.
    fn run(
        &mut self,
        compiled: u64,
        arguments: RSlice<'_, u64>,
        outputs: RSlice<'_, u64>,
    ) -> RResult<(), AbiError>;

    /// Memory figures as they are now; asked for every step, so it must not wait for work under way.
    fn memory(&mut self) -> RResult<MemoryInfo, AbiError>;

    /// Sets the peak to what is in use now.
    fn reset_peak(&mut self) -> RResult<(), AbiError>;

    /// Waits until all work is done.
    fn synchronize(&mut self) -> RResult<(), AbiError>;

    /// An extension of this device, if the plugin has it.
    #[sabi(last_prefix_field)]
    fn extension(&mut self, name: RStr<'_>) -> RResult<ROption<Extension>, AbiError>;
}

/// A [`DeviceApi`] that is owned.
pub type DeviceBox = DeviceApi_TO<RBox<()>>;

//! An open device, for the rest of the host: Rust types, and handles that free themselves.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RResult, RSlice, RSliceMut, RStr};
use finetune_plugin_api::abi::{
    AbiError, DeviceBox, ErrorKind, Extension, HostMemory, HostMemoryBox, MemoryInfo,
};
use finetune_plugin_api::program::{NativeOps, Program, TensorType};
use serde_json::{Map, Value};

use super::error::{DeviceError, PluginError};
use super::load::load;
use super::manifest::Manifest;

/// Characters of a plugin's message that are passed on.
const LONGEST_MESSAGE: usize = 4000;

/// Bytes that a plugin may hold and read for as long as it likes, such as a mapped file. `as_ref` gives the
/// same bytes at every call.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An open device. Clones are the same device; it is closed when the last clone, buffer and compiled program is
/// gone. Calls from several threads take turns.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    plugin: String,
    object: Mutex<DeviceBox>,
}

/// A tensor on a device; freed when it is dropped.
pub struct Buffer {
    device: Device,
    handle: u64,
    ty: TensorType,
}

/// A program compiled for a device; released when it is dropped.
pub struct Compiled {
    device: Device,
    id: u64,
    details: Map<String, Value>,
}

impl Device {
    /// Loads a plugin and opens a device of it.
    pub(super) fn open(
        path: &Path,
        manifest: &Manifest,
        index: u32,
        options: &Map<String, Value>,
    ) -> Result<Device, PluginError> {
        tracing::info!("{}:{index} is used; loading {}", manifest.name, path.display());
        let module = load(path, manifest)
            .map_err(|refusal| PluginError::Refused { path: path.to_path_buf(), reason: refusal.reason })?;
        let options = Value::Object(options.clone()).to_string();
        let object = module.open()(index, RStr::from_str(&options));
        let object = object.into_result().map_err(|error| device_error(&manifest.name, error))?;
        let device = Device::from_object(&manifest.name, object);
        tracing::debug!("{}:{index} is open: {:?}", manifest.name, device.properties());
        Ok(device)
    }

    /// Wraps a device object, whoever made it.
    pub fn from_object(plugin: &str, object: DeviceBox) -> Device {
        Device(Arc::new(Inner { plugin: plugin.into(), object: Mutex::new(object) }))
    }

    /// The name of its back end.
    pub fn plugin(&self) -> &str {
        &self.0.plugin
    }

    /// The composite ops that it has natively.
    pub fn ops(&self) -> Result<NativeOps, DeviceError> {
        let names = self.call(|object| object.ops())?;
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        Ok(NativeOps::of(&names))
    }

    /// Facts about it that do not change.
    pub fn properties(&self) -> Result<Map<String, Value>, DeviceError> {
        let text = self.call(|object| object.properties())?;
        self.json(text.as_str())
    }

    /// A new buffer; its contents are undefined.
    pub fn allocate(&self, ty: &TensorType) -> Result<Buffer, DeviceError> {
        let shape = shape_of(ty);
        let handle =
            self.call(|object| object.allocate(ty.dtype.name().into(), RSlice::from_slice(&shape)))?;
        Ok(self.buffer(handle, ty))
    }

    /// A new buffer with those contents (row major, little endian).
    pub fn upload_new(&self, ty: &TensorType, bytes: &[u8]) -> Result<Buffer, DeviceError> {
        let buffer = self.allocate(ty)?;
        self.upload(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// A read-only buffer over memory that the plugin may go on reading, so that it never exists twice where
    /// the device can read it in place.
    pub fn adopt(&self, ty: &TensorType, memory: SharedBytes) -> Result<Buffer, DeviceError> {
        let shape = shape_of(ty);
        let memory = HostMemoryBox::from_value(Lent(memory), TD_Opaque);
        let handle =
            self.call(|object| object.adopt(ty.dtype.name().into(), RSlice::from_slice(&shape), memory))?;
        Ok(self.buffer(handle, ty))
    }

    /// Writes into a buffer from that byte offset on.
    pub fn upload(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let handle = self.handle(buffer)?;
        self.call(|object| object.upload(handle, offset as u64, bytes.into()))
    }

    /// Reads from a buffer from that byte offset on; waits for the work that writes it.
    pub fn download(&self, buffer: &Buffer, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        let handle = self.handle(buffer)?;
        self.call(|object| object.download(handle, offset as u64, RSliceMut::from_mut_slice(into)))
    }

    /// All of a buffer's bytes.
    pub fn download_all(&self, buffer: &Buffer) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = vec![0; buffer.ty.bytes()];
        self.download(buffer, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Compiles a program, which may hold only core ops and those of [`Device::ops`].
    pub fn compile(&self, program: &Program) -> Result<Compiled, DeviceError> {
        let text = program.to_string();
        let info = self.call(|object| object.compile(RStr::from_str(&text), "{}".into()))?;
        // Held before anything can fail, so that it is released.
        let mut compiled = Compiled { device: self.clone(), id: info.id, details: Map::new() };
        compiled.details = self.json(info.details.as_str())?;
        Ok(compiled)
    }

    /// Runs a program on buffers in the order of its arguments and outputs. May return before it is done.
    pub fn run(
        &self,
        compiled: &Compiled,
        arguments: &[&Buffer],
        outputs: &[&Buffer],
    ) -> Result<(), DeviceError> {
        self.same(&compiled.device, "a program")?;
        let handles = |buffers: &[&Buffer]| {
            buffers.iter().map(|buffer| self.handle(buffer)).collect::<Result<Vec<u64>, DeviceError>>()
        };
        let (arguments, outputs) = (handles(arguments)?, handles(outputs)?);
        self.call(|object| {
            object.run(compiled.id, RSlice::from_slice(&arguments), RSlice::from_slice(&outputs))
        })
    }

    /// Memory figures as they are now.
    pub fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.call(|object| object.memory())
    }

    /// Sets the peak to what is in use now.
    pub fn reset_peak(&self) -> Result<(), DeviceError> {
        self.call(|object| object.reset_peak())
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.call(|object| object.synchronize())
    }

    /// An extension of the device, if the plugin has it.
    pub fn extension(&self, name: &str) -> Result<Option<Extension>, DeviceError> {
        Ok(self.call(|object| object.extension(name.into()))?.into_option())
    }

    fn call<T>(&self, call: impl FnOnce(&mut DeviceBox) -> RResult<T, AbiError>) -> Result<T, DeviceError> {
        let result = call(&mut self.lock());
        result.into_result().map_err(|error| device_error(&self.0.plugin, error))
    }

    /// A thread of the host that panicked between two calls left nothing half done on the device.
    fn lock(&self) -> MutexGuard<'_, DeviceBox> {
        self.0.object.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self, handle: u64, ty: &TensorType) -> Buffer {
        Buffer { device: self.clone(), handle, ty: ty.clone() }
    }

    fn json(&self, text: &str) -> Result<Map<String, Value>, DeviceError> {
        serde_json::from_str(text).map_err(|error| {
            let message = format!("the plugin answered with what is no JSON object: {error}");
            self.error(ErrorKind::Internal, message)
        })
    }

    fn handle(&self, buffer: &Buffer) -> Result<u64, DeviceError> {
        self.same(&buffer.device, "a buffer")?;
        Ok(buffer.handle)
    }

    /// Handles of two devices look alike.
    fn same(&self, other: &Device, what: &str) -> Result<(), DeviceError> {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ok(());
        }
        let message = format!("{what} of another device (back end {}) was passed", other.plugin());
        Err(self.error(ErrorKind::InvalidArgument, message))
    }

    fn error(&self, kind: ErrorKind, message: String) -> DeviceError {
        DeviceError { plugin: self.0.plugin.clone(), kind, message, state_untouched: true }
    }
}

impl Buffer {
    /// Its type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Compiled {
    /// What the plugin says about it, such as `workspace_bytes`.
    pub fn details(&self) -> &Map<String, Value> {
        &self.details
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let result = self.device.call(|object| object.free(self.handle));
        if let Err(error) = result {
            tracing::warn!("a buffer could not be freed: {error}");
        }
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let result = self.device.call(|object| object.release(self.id));
        if let Err(error) = result {
            tracing::warn!("a program could not be released: {error}");
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.0.plugin)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} on {})", self.ty, self.device.plugin())
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compiled({} on {})", self.id, self.device.plugin())
    }
}

struct Lent(SharedBytes);

impl HostMemory for Lent {
    fn bytes(&self) -> RSlice<'_, u8> {
        RSlice::from_slice(AsRef::<[u8]>::as_ref(&*self.0))
    }
}

fn shape_of(ty: &TensorType) -> Vec<u64> {
    ty.shape.iter().map(|&dim| dim as u64).collect()
}

fn device_error(plugin: &str, error: AbiError) -> DeviceError {
    DeviceError {
        plugin: plugin.into(),
        kind: ErrorKind::from_code(error.kind),
        message: plain(error.message.as_str()),
        state_untouched: error.state_untouched,
    }
}

/// A plugin's words, for a terminal and a file: not long, and nothing that a terminal would obey.
fn plain(message: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = message.chars().take(LONGEST_MESSAGE).map(plain).collect();
    if message.chars().nth(LONGEST_MESSAGE).is_some() {
        text.push_str("...");
    }
    text
}

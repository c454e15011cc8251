//! The device object as it crosses the boundary: converts types, decides nothing.

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

use crate::abi::{AbiError, CompiledInfo, DeviceApi, DeviceBox, Extension, HostMemoryBox, MemoryInfo};

use super::error::to_abi;
use super::guard::guard;
use super::session::Session;
use super::{Device, Error, HostBytes, JsonObject};

/// Reaches a session, wherever it lives.
pub(super) trait Reach: Send + 'static {
    type Device: Device;

    fn call<R: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Session<Self::Device>) -> Result<R, Error> + Send,
    ) -> Result<R, Error>;
}

/// A session that may be used from any thread.
pub(super) struct Direct<D: Device>(Option<Session<D>>);

impl<D: Device> Direct<D> {
    pub(super) fn new(device: D) -> Direct<D> {
        Direct(Some(Session::new(device)))
    }
}

impl<D> Reach for Direct<D>
where
    D: Device + Send,
    D::Buffer: Send,
    D::Compiled: Send,
{
    type Device = D;

    fn call<R: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Session<D>) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        call(self.0.as_mut().expect("present until dropped"))
    }
}

impl<D: Device> Drop for Direct<D> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Session::close);
    }
}

pub(super) fn into_box(reach: impl Reach) -> DeviceBox {
    DeviceBox::from_value(Object(reach), TD_Opaque)
}

struct Object<R>(R);

impl<R: Reach> Object<R> {
    fn call<T: Send + 'static, U: From<T>>(
        &mut self,
        call: impl FnOnce(&mut Session<R::Device>) -> Result<T, Error> + Send,
    ) -> RResult<U, AbiError> {
        to_abi(guard("the plugin", || self.0.call(call)))
    }
}

impl<R: Reach> DeviceApi for Object<R> {
    fn ops(&mut self) -> RResult<RVec<RString>, AbiError> {
        self.call(|session| Ok(session.ops()?.into_iter().map(RString::from).collect::<RVec<_>>()))
    }

    fn properties(&mut self) -> RResult<RString, AbiError> {
        self.call(|session| Ok(json(session.properties()?)))
    }

    fn allocate(&mut self, dtype: RStr<'_>, shape: RSlice<'_, u64>) -> RResult<u64, AbiError> {
        let (dtype, shape) = (dtype.as_str(), shape.as_slice());
        self.call(|session| session.allocate(dtype, shape))
    }

    fn adopt(
        &mut self,
        dtype: RStr<'_>,
        shape: RSlice<'_, u64>,
        memory: HostMemoryBox,
    ) -> RResult<u64, AbiError> {
        let (dtype, shape) = (dtype.as_str(), shape.as_slice());
        self.call(|session| session.adopt(dtype, shape, HostBytes::new(memory)))
    }

    fn upload(&mut self, buffer: u64, offset: u64, bytes: RSlice<'_, u8>) -> RResult<(), AbiError> {
        let bytes = bytes.as_slice();
        self.call(|session| session.upload(buffer, offset, bytes))
    }

    fn download(&mut self, buffer: u64, offset: u64, mut into: RSliceMut<'_, u8>) -> RResult<(), AbiError> {
        let into = into.as_mut_slice();
        self.call(|session| session.download(buffer, offset, into))
    }

    fn free(&mut self, buffer: u64) -> RResult<(), AbiError> {
        self.call(|session| session.free(buffer))
    }

    // One dialect of options is none: unknown keys are ignored, and there is no known one yet.
    fn compile(&mut self, program: RStr<'_>, _options: RStr<'_>) -> RResult<CompiledInfo, AbiError> {
        let program = program.as_str();
        self.call(|session| {
            let (id, details) = session.compile(program)?;
            Ok(CompiledInfo { id, details: json(details) })
        })
    }

    fn release(&mut self, compiled: u64) -> RResult<(), AbiError> {
        self.call(|session| session.release(compiled))
    }

    fn run(
        &mut self,
        compiled: u64,
        arguments: RSlice<'_, u64>,
        outputs: RSlice<'_, u64>,
    ) -> RResult<(), AbiError> {
        let (arguments, outputs) = (arguments.as_slice(), outputs.as_slice());
        self.call(|session| session.run(compiled, arguments, outputs))
    }

    fn memory(&mut self) -> RResult<MemoryInfo, AbiError> {
        self.call(|session| session.memory())
    }

    fn reset_peak(&mut self) -> RResult<(), AbiError> {
        self.call(|session| session.reset_peak())
    }

    fn synchronize(&mut self) -> RResult<(), AbiError> {
        self.call(|session| session.synchronize())
    }

    fn extension(&mut self, name: RStr<'_>) -> RResult<ROption<Extension>, AbiError> {
        let name = name.as_str();
        self.call(|session| session.extension(name))
    }
}

pub(super) fn json(object: JsonObject) -> RString {
    serde_json::Value::Object(object).to_string().into()
}

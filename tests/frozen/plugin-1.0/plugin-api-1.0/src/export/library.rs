//! The root module of a plugin, made from a [`Plugin`].

use abi_stable::library::{CheckTypeLayout, LibHeader, ROOT_MODULE_LOADER_NAME, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};

use crate::abi::{AbiError, DeviceBox, DeviceInfo, Extension, PluginModule, PluginModule_Ref};

use super::error::to_abi;
use super::guard::guard;
use super::object::{Direct, into_box, json};
use super::thread::Threaded;
use super::{Device, DeviceDescription, Error, Options, Plugin};

/// On which thread a plugin's devices live: [`AnyThread`] or [`OwnThread`].
pub trait Threading<P: Plugin>: 'static {
    /// Opens a device and wraps it for the boundary.
    fn open(index: u32, options: Options) -> Result<DeviceBox, Error>;
}

/// Devices are used from any thread, by one at a time: everything is [`Send`].
pub enum AnyThread {}

/// Each device is opened, used and dropped on one thread of its own: nothing need be [`Send`].
pub enum OwnThread {}

impl<P: Plugin> Threading<P> for AnyThread
where
    P::Device: Send,
    <P::Device as Device>::Buffer: Send,
    <P::Device as Device>::Compiled: Send,
{
    fn open(index: u32, options: Options) -> Result<DeviceBox, Error> {
        Ok(into_box(Direct::new(P::open(index, &options)?)))
    }
}

impl<P: Plugin> Threading<P> for OwnThread {
    fn open(index: u32, options: Options) -> Result<DeviceBox, Error> {
        Ok(into_box(Threaded::open::<P>(index, options)?))
    }
}

/// The root module of a plugin.
pub fn module<P: Plugin, T: Threading<P>>() -> PluginModule_Ref {
    PluginModule { probe: probe::<P>, open: open::<P, T>, extension: extension::<P> }.leak_into_prefix()
}

/// The name under which a library's header is looked up; `export_plugin!` repeats it as a literal.
#[doc(hidden)]
pub const ROOT_MODULE_SYMBOL: &str = ROOT_MODULE_LOADER_NAME;

#[doc(hidden)]
pub const fn header<P: Plugin, T: Threading<P>>() -> LibHeader {
    // SAFETY: the constructor's module is a `PluginModule_Ref`.
    #[allow(unsafe_code)]
    unsafe {
        LibHeader::from_constructor::<PluginModule_Ref>(constructor::<P, T>, CheckTypeLayout::Yes)
    }
}

extern "C" fn constructor<P: Plugin, T: Threading<P>>() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(module::<P, T>)
}

extern "C" fn probe<P: Plugin>(_options: RStr<'_>) -> RResult<RVec<DeviceInfo>, AbiError> {
    to_abi(guard("probe", P::probe).map(|devices| {
        devices
            .into_iter()
            .enumerate()
            .map(|(index, device)| device_info(index as u32, device))
            .collect::<RVec<_>>()
    }))
}

extern "C" fn open<P: Plugin, T: Threading<P>>(
    index: u32,
    options: RStr<'_>,
) -> RResult<DeviceBox, AbiError> {
    to_abi(guard("open", || T::open(index, Options::parse(options.as_str())?)))
}

extern "C" fn extension<P: Plugin>(name: RStr<'_>) -> RResult<ROption<Extension>, AbiError> {
    to_abi(guard("extension", || Ok(P::extension(name.as_str()))))
}

fn device_info(index: u32, device: DeviceDescription) -> DeviceInfo {
    DeviceInfo {
        index,
        name: device.name.into(),
        kind: device.kind.into(),
        memory_total: device.memory_total,
        memory_available: device.memory_available,
        unified: device.unified,
        dtypes: device.dtypes.into_iter().map(|dtype| RString::from(dtype.name())).collect(),
        details: json(device.details),
    }
}

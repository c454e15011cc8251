use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};

use super::{AbiError, DeviceBox, Extension};

/// A device that a plugin found.
#[repr(C)]
#[derive(Clone, Debug, StableAbi)]
pub struct DeviceInfo {
    /// What [`PluginModule::open`](PluginModule_Ref::open) calls it.
    pub index: u32,
    /// What a person calls it: the chip's or card's name.
    pub name: RString,
    /// `cpu`, `gpu`, or another word.
    pub kind: RString,
    /// Its memory in bytes; 0 where unknown.
    pub memory_total: u64,
    /// Bytes that could be allocated now; 0 where unknown.
    pub memory_available: u64,
    /// Whether its memory is the processor's.
    pub unified: bool,
    /// The names of the element types that it computes with.
    pub dtypes: RVec<RString>,
    /// A JSON object with whatever else is worth knowing.
    pub details: RString,
}

/// The root module of a plugin. No function unwinds.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModule_Ref)))]
pub struct PluginModule {
    /// Looks for devices without claiming them. `options` is a JSON object. No device is an empty list or, with
    /// the reason, an error of the kind `unavailable`.
    pub probe: extern "C" fn(options: RStr<'_>) -> RResult<RVec<DeviceInfo>, AbiError>,
    /// Opens a device by its index. `options` is a JSON object.
    pub open: extern "C" fn(index: u32, options: RStr<'_>) -> RResult<DeviceBox, AbiError>,
    /// An extension of the plugin itself, if it has it.
    #[sabi(last_prefix_field)]
    pub extension: extern "C" fn(name: RStr<'_>) -> RResult<ROption<Extension>, AbiError>,
}

impl RootModule for PluginModule_Ref {
    abi_stable::declare_root_module_statics! {PluginModule_Ref}
    const BASE_NAME: &'static str = "finetune_plugin";
    const NAME: &'static str = "finetune_plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

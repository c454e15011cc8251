//! The boundary between host and plugin: what crosses it, and nothing else.
//!
//! A plugin is a dynamic library that exports two symbols: the [manifest], which is data and is read
//! without loading the library, and the root module header of `abi_stable`, behind which stand a
//! [`PluginModule`] and, for every opened device, a [`DeviceApi`] object. `abi_stable` compares the layout of
//! all of these types when a library is loaded.
//!
//! **Everything here is frozen for version 1.** A trait object or module with one method more is refused by
//! `abi_stable`, so nothing is ever added to these types. The boundary grows in three other ways:
//!
//! - programs: new ops and attributes are text, and reach only plugins that name them in [`DeviceApi::ops`];
//! - named [extensions](Extension): objects with a layout of their own, checked when they are asked for;
//! - JSON objects where they stand (options, properties, details): unknown keys are ignored.
//!
//! Kinds cross as integers, so that a new one is no change of layout. Authors in Rust do not use this module
//! but [`crate::export`].

#[allow(unsafe_code, non_local_definitions, reason = "what abi_stable generates for a trait object")]
mod device;
mod error;
mod extension;
pub mod manifest;
#[allow(non_camel_case_types, reason = "abi_stable names what it generates so")]
mod module;

pub use device::{
    CompiledInfo, DeviceApi, DeviceApi_TO, DeviceBox, HostMemory, HostMemory_TO, HostMemoryBox, MemoryInfo,
    PROPERTY_ASYNCHRONOUS,
};
pub use error::{AbiError, ErrorKind};
pub use extension::{Extension, ExtensionError};
pub use module::{DeviceInfo, PluginModule, PluginModule_Ref};

/// The version of this interface: a plugin built against 1.x loads in every host that has 1.y with y >= x.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");

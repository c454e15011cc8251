//! A plugin whose root module has a field more than the host's, although it names the same version of the interface:
//! what comes of a plugin-api that its author has changed.
// The header is written by hand, where an author has a macro.
#![allow(unsafe_code, non_camel_case_types)]

use abi_stable::StableAbi;
use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use finetune_plugin_api::abi::manifest::{Fields, bytes, length};

const FIELDS: Fields = Fields {
    name: "layout",
    version: "0.1.0",
    vendor: "the finetune project",
    license: "MIT OR Apache-2.0",
    description: "Has a layout of its own; for tests only",
};

#[used]
#[unsafe(export_name = "finetune_plugin_manifest")]
pub static MANIFEST: [u8; length(&FIELDS)] = bytes(&FIELDS);

/// A root module that no host knows.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = OtherModule_Ref)))]
pub struct OtherModule {
    /// Takes nothing.
    pub probe: extern "C" fn() -> u64,
    /// Gives something else.
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn(text: abi_stable::std_types::RString) -> u8,
}

impl RootModule for OtherModule_Ref {
    abi_stable::declare_root_module_statics! {OtherModule_Ref}
    const BASE_NAME: &'static str = "finetune_plugin";
    const NAME: &'static str = "finetune_plugin";
    // The host compares it with the manifest: this plugin lies about nothing but its layout.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(finetune_plugin_api::abi::API_VERSION);
}

extern "C" fn probe() -> u64 {
    0
}

extern "C" fn open(_: abi_stable::std_types::RString) -> u8 {
    0
}

extern "C" fn root() -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(|| OtherModule { probe, open }.leak_into_prefix())
}

#[used]
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
// SAFETY: `root` gives an `OtherModule_Ref`.
pub static HEADER: LibHeader =
    unsafe { LibHeader::from_constructor::<OtherModule_Ref>(root, CheckTypeLayout::Yes) };

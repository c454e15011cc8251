/// Makes a library a plugin. To be called once, in the root of a crate with `crate-type = ["cdylib"]`.
///
/// ```text
/// finetune_plugin_api::export_plugin! {
///     plugin: MyPlugin,              // implements `export::Plugin`
///     name: "mine",                  // what `--backend` takes: lower-case letters, digits and '-'
///     vendor: "Who made it",
///     description: "What it drives, in a sentence",
///     thread: owned,                 // only if devices belong to the thread that opened them
/// }
/// ```
///
/// `name`, `vendor` and `description` are constant expressions of the type `&'static str`. Version and licence
/// come from the crate's Cargo.toml. The expansion needs no `unsafe` in the crate that uses it.
#[macro_export]
macro_rules! export_plugin {
    (plugin: $plugin:ty, name: $name:expr, vendor: $vendor:expr, description: $description:expr $(,)?) => {
        $crate::__export_plugin!($plugin, $crate::export::AnyThread, $name, $vendor, $description);
    };
    (plugin: $plugin:ty, name: $name:expr, vendor: $vendor:expr, description: $description:expr,
     thread: owned $(,)?) => {
        $crate::__export_plugin!($plugin, $crate::export::OwnThread, $name, $vendor, $description);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_plugin {
    ($plugin:ty, $threading:ty, $name:expr, $vendor:expr, $description:expr) => {
        #[cfg(panic = "abort")]
        compile_error!("a plugin cannot be built with panic = \"abort\": a panic has to become an error");

        const _: () = {
            const FIELDS: $crate::abi::manifest::Fields = $crate::abi::manifest::Fields {
                name: $name,
                version: env!("CARGO_PKG_VERSION"),
                vendor: $vendor,
                license: env!("CARGO_PKG_LICENSE"),
                description: $description,
            };

            #[used]
            #[unsafe(export_name = "finetune_plugin_manifest")]
            pub static MANIFEST: [u8; $crate::abi::manifest::length(&FIELDS)] =
                $crate::abi::manifest::bytes(&FIELDS);

            #[used]
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static HEADER: $crate::export::LibHeader = $crate::export::header::<$plugin, $threading>();
        };
    };
}

#[cfg(test)]
mod tests {
    /// Attributes take only literals, so the macro repeats two names that others look up.
    #[test]
    fn the_exported_names_are_those_that_are_looked_up() {
        let source = include_str!("macros.rs");
        for name in [crate::abi::manifest::SYMBOL, crate::export::ROOT_MODULE_SYMBOL] {
            assert!(source.contains(&format!("export_name = \"{name}\"")), "{name}");
        }
    }
}

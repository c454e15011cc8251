//! The interface at version 1.0.0, as it was in the commit 2233d63e813ab704de00ace7a59a872fa02b26f2, kept so that a
//! plugin built against it goes on being tried. Nothing here is to be changed. The conformance suite, the tests and
//! the examples are left out; nothing of them crosses the boundary.
//!
//! Everything that a compute back end for `finetune` depends on.
//!
//! - [`program`]: the language in which the host hands work to a plugin: the op table, types, builder,
//!   text form, validation and decompositions.
//! - [`export`]: safe traits and one macro, with which a plugin is written.
//! - [`plan`]: where a program's values lie: liveness, storage shared and reused, one arena.
//! - [`abi`]: the boundary underneath.
//! - [`mod@reference`]: a slow, obvious interpreter in f64: what every op means.
//!
//! # Writing a plugin
//!
//! `examples/tiny.rs` of this crate is a complete plugin in a file. The steps to one of your own:
//!
//! **The crate** is a dynamic library that depends on this crate alone, never on the host:
//!
//! ```toml
//! [package]
//! name = "finetune-mine"
//! version = "0.1.0"           # goes into the manifest
//! license = "MIT"             # goes into the manifest
//!
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! finetune-plugin-api = "1"
//! ```
//!
//! It is not built with `panic = "abort"`: a panic has to become an error of the call that it happened in.
//!
//! **Two traits** are the plugin: [`export::Plugin`] finds devices and opens one, [`export::Device`] allocates
//! buffers, compiles programs and runs them. Neither needs `unsafe`. [`export::Meter`] counts memory.
//!
//! **One macro**, [`export_plugin!`], exports them together with the *manifest*: JSON that the host reads out of
//! the file without loading it, with the plugin's name (what `--backend` takes), version, licence and the version
//! of this interface ([`abi::manifest`]).
//!
//! **Programs.** [`Device::compile`](export::Device::compile) gets a valid [`program::Program`]. All *core* ops
//! must be there; a *composite* op comes only if [`Device::ops`](export::Device::ops) names it, for others the
//! host writes its decomposition. So begin with none, and add those that your hardware has a kernel for. What each
//! op takes and gives is in `OPS.md` beside this crate, row by row, and in [`mod@reference`] as code. State is
//! updated as a whole when a run ends; no read of it sees a new value.
//!
//! **Memory.** [`plan::plan`] says where every value of a program lies, in one arena, so that a plugin need not
//! work it out. A device that publishes its [`plan::PlanOptions`] as the member `plan` of
//! [`Device::properties`](export::Device::properties) has its peak memory known before a run begins.
//!
//! **To try it**, put the library into a folder and name the folder: `finetune plugins list --plugins DIR` shows
//! it with its devices or with the reason why it cannot be used, `finetune train --backend NAME --plugins DIR ...`
//! trains with it. A plugin that was built against version 1.x of this crate loads in every host with 1.y, y >= x.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod abi;
pub mod export;
pub mod plan;
pub mod program;
pub mod reference;

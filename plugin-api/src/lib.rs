//! Everything that a compute back end for `finetune` depends on.
//!
//! - [`program`]: the language in which the host hands work to a plugin: the op table, types, builder,
//!   text form, validation and decompositions.
//! - [`export`]: safe traits and one macro, with which a plugin is written.
//! - [`plan`]: where a program's values lie: liveness, storage shared and reused, one arena.
//! - [`abi`]: the boundary underneath.
//! - [`mod@reference`]: a slow, obvious interpreter in f64: what every op means.
//! - [`conformance`]: the cases that every plugin must pass.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod abi;
pub mod conformance;
pub mod export;
pub mod plan;
pub mod program;
pub mod reference;

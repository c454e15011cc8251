//! Everything that a compute back end for `finetune` depends on.
//!
//! - [`program`]: the language in which the host hands work to a plugin: the op table, types, builder,
//!   text form, validation and decompositions.
//! - [`export`]: safe traits and one macro, with which a plugin is written.
//! - [`plan`]: where the values of a program live; for back ends, and for the host to know the memory in
//!   advance.
//! - [`abi`]: the boundary underneath.
//! - [`conformance`]: the cases that every plugin must pass.
//! - [`reference`]: a slow, obvious interpreter in f64: what every op means.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod abi;
pub mod conformance;
pub mod export;
pub mod plan;
pub mod program;
pub mod reference;

//! Everything that a compute back end for `finetune` depends on.
//!
//! - [`program`]: the language in which the host hands work to a plugin: the op table, types, builder,
//!   text form, validation and decompositions.
//! - [`reference`]: a slow, obvious interpreter in f64: what every op means.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod program;
pub mod reference;

//! Which devices there are, how one is opened and what memory it has: the only part that knows the kind.

use finetune_plugin_api::program::DType;

const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::F16, DType::U32, DType::Bool];

#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[path = "cpu.rs"]
mod kind;
#[cfg(feature = "cuda")]
#[path = "cuda.rs"]
mod kind;
#[cfg(feature = "metal")]
#[path = "metal.rs"]
mod kind;

pub use kind::{Figures, has_room, open, probe, scoped};

//! The precision of a run.

use std::fmt;

use finetune_plugin_api::program::DType;

/// In what type a run holds frozen weights and activations. Trained tensors, their moments and gradients,
/// reductions, norms, softmax and the loss are `f32` in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `f32` throughout. Frozen weights that are stored in a shorter type stay so and are widened, exactly,
    /// where they are used.
    F32,
    /// Frozen weights and activations are `bf16`.
    Bf16,
}

impl Precision {
    /// The type of activations and of the operands of products.
    pub fn compute(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }

    /// The type in which a frozen tensor is held that the file stores as `stored`.
    pub fn frozen(self, stored: DType) -> DType {
        match self {
            Precision::F32 => stored,
            Precision::Bf16 => DType::Bf16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.compute().name())
    }
}

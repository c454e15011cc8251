use crate::program::{DType, TensorType};
use crate::reference::{Tensor, Values};

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers depend on the seed alone.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A whole number below `limit`, 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next_u64()) * limit as u128) >> 64) as usize
    }

    /// A number from `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Floats between two numbers, rounded to their type.
    pub fn floats(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> Tensor {
        let values = (0..count(shape)).map(|_| self.between(low, high)).collect();
        tensor(dtype, shape, Values::Float(values)).rounded()
    }

    /// Whole numbers below `limit`.
    pub fn u32s(&mut self, shape: &[usize], limit: usize) -> Tensor {
        let values = (0..count(shape)).map(|_| self.below(limit) as u32).collect();
        tensor(DType::U32, shape, Values::U32(values))
    }

    /// Any 32 bits.
    pub fn bits(&mut self, shape: &[usize]) -> Tensor {
        self.u32s(shape, 1 << 32)
    }

    /// Truth values.
    pub fn bools(&mut self, shape: &[usize]) -> Tensor {
        let values = (0..count(shape)).map(|_| self.next_u64() & 1 == 1).collect();
        tensor(DType::Bool, shape, Values::Bool(values))
    }

    /// Elements of any type, small numbers if it has numbers.
    pub fn any(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        match dtype {
            DType::U32 => self.u32s(shape, 100),
            DType::Bool => self.bools(shape),
            float => self.floats(float, shape, -2.0, 2.0),
        }
    }
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A tensor that is right by construction.
pub(super) fn tensor(dtype: DType, shape: &[usize], values: Values) -> Tensor {
    let made = Tensor::new(TensorType::new(dtype, shape), values);
    made.unwrap_or_else(|error| panic!("a case is made wrongly: {error}"))
}

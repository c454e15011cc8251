use half::{bf16, f16};

use super::ReferenceError;
use crate::program::{DType, TensorType};

/// The elements of a tensor. Floats of every type are held in f64.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Elements of a float type.
    Float(Vec<f64>),
    /// Elements of `u32`.
    U32(Vec<u32>),
    /// Elements of `bool`.
    Bool(Vec<bool>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Values::Float(values) => values.len(),
            Values::U32(values) => values.len(),
            Values::Bool(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hold(&self, dtype: DType) -> bool {
        match self {
            Values::Float(_) => dtype.is_float(),
            Values::U32(_) => dtype == DType::U32,
            Values::Bool(_) => dtype == DType::Bool,
        }
    }

    /// Elements of that type, each 0 or false.
    pub(super) fn zeros(dtype: DType, count: usize) -> Values {
        match dtype {
            DType::U32 => Values::U32(vec![0; count]),
            DType::Bool => Values::Bool(vec![false; count]),
            _ => Values::Float(vec![0.0; count]),
        }
    }

    /// The elements at these positions.
    pub(super) fn at(&self, positions: &[usize]) -> Values {
        match self {
            Values::Float(values) => Values::Float(positions.iter().map(|&i| values[i]).collect()),
            Values::U32(values) => Values::U32(positions.iter().map(|&i| values[i]).collect()),
            Values::Bool(values) => Values::Bool(positions.iter().map(|&i| values[i]).collect()),
        }
    }

    /// Writes all of `from`, in order, to these positions.
    pub(super) fn put(&mut self, positions: &[usize], from: &Values) {
        match (self, from) {
            (Values::Float(to), Values::Float(from)) => put(to, positions, from),
            (Values::U32(to), Values::U32(from)) => put(to, positions, from),
            (Values::Bool(to), Values::Bool(from)) => put(to, positions, from),
            (to, from) => panic!("{from:?} cannot be written into {to:?}"),
        }
    }
}

fn put<T: Copy>(to: &mut [T], positions: &[usize], from: &[T]) {
    for (&position, &value) in positions.iter().zip(from) {
        to[position] = value;
    }
}

/// A type and as many elements as it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    ty: TensorType,
    values: Values,
}

impl Tensor {
    /// A tensor of that type.
    ///
    /// # Errors
    /// The type is none of the language, or the values are of another kind or number.
    pub fn new(ty: TensorType, values: Values) -> Result<Tensor, ReferenceError> {
        let wrong = |message: String| ReferenceError::Tensor { ty: ty.clone(), message };
        ty.check().map_err(wrong)?;
        if !values.hold(ty.dtype) {
            return Err(wrong("its elements are given as another kind".into()));
        }
        if values.len() != ty.elements() {
            return Err(wrong(format!("it has {} elements; {} are given", ty.elements(), values.len())));
        }
        Ok(Tensor { ty, values })
    }

    /// A tensor of a float type. The values are taken as they are, not rounded.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn float(dtype: DType, shape: &[usize], values: Vec<f64>) -> Result<Tensor, ReferenceError> {
        Tensor::new(TensorType::new(dtype, shape), Values::Float(values))
    }

    /// A tensor of `u32`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn u32(shape: &[usize], values: Vec<u32>) -> Result<Tensor, ReferenceError> {
        Tensor::new(TensorType::new(DType::U32, shape), Values::U32(values))
    }

    /// Zeros (or false) of that type.
    ///
    /// # Errors
    /// The type is none of the language.
    pub fn zeros(ty: &TensorType) -> Result<Tensor, ReferenceError> {
        ty.check().map_err(|message| ReferenceError::Tensor { ty: ty.clone(), message })?;
        Ok(Tensor { values: Values::zeros(ty.dtype, ty.elements()), ty: ty.clone() })
    }

    /// What an op's function gives for a result of that type.
    pub(crate) fn of_result(ty: &TensorType, values: Values) -> Tensor {
        debug_assert!(values.hold(ty.dtype) && values.len() == ty.elements(), "{ty}: {values:?}");
        Tensor { ty: ty.clone(), values }
    }

    /// Its type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Its elements.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Its elements. Panics if they are no floats.
    pub fn floats(&self) -> &[f64] {
        match &self.values {
            Values::Float(values) => values,
            _ => panic!("{} has no float elements", self.ty),
        }
    }

    /// Its elements, to be changed. Panics if they are no floats.
    pub fn floats_mut(&mut self) -> &mut [f64] {
        match &mut self.values {
            Values::Float(values) => values,
            _ => panic!("{} has no float elements", self.ty),
        }
    }

    /// Its elements. Panics if they are not `u32`.
    pub fn u32s(&self) -> &[u32] {
        match &self.values {
            Values::U32(values) => values,
            _ => panic!("{} has no u32 elements", self.ty),
        }
    }

    /// Its elements. Panics if they are not `bool`.
    pub fn bools(&self) -> &[bool] {
        match &self.values {
            Values::Bool(values) => values,
            _ => panic!("{} has no bool elements", self.ty),
        }
    }

    /// The same tensor with every float rounded to its element type.
    pub fn rounded(mut self) -> Tensor {
        if let Values::Float(values) = &mut self.values {
            values.iter_mut().for_each(|value| *value = round(*value, self.ty.dtype));
        }
        self
    }

    /// Reads little-endian elements, as they lie in a plugin's buffer.
    ///
    /// # Errors
    /// The type is none of the language, the number of bytes is another, or a `bool` is neither 0 nor 1.
    pub fn from_bytes(ty: &TensorType, bytes: &[u8]) -> Result<Tensor, ReferenceError> {
        let wrong = |message: String| ReferenceError::Tensor { ty: ty.clone(), message };
        ty.check().map_err(wrong)?;
        if bytes.len() != ty.bytes() {
            return Err(wrong(format!("it takes {} bytes; {} are given", ty.bytes(), bytes.len())));
        }
        let values = match ty.dtype {
            DType::F32 => Values::Float(words(bytes, |word| f64::from(f32::from_le_bytes(word)))),
            DType::F16 => Values::Float(words(bytes, |word| f16::from_le_bytes(word).to_f64())),
            DType::Bf16 => Values::Float(words(bytes, |word| bf16::from_le_bytes(word).to_f64())),
            DType::U32 => Values::U32(words(bytes, u32::from_le_bytes)),
            DType::Bool => match bytes.iter().find(|&&byte| byte > 1) {
                Some(byte) => return Err(wrong(format!("a truth value is {byte}; expected 0 or 1"))),
                None => Values::Bool(bytes.iter().map(|&byte| byte == 1).collect()),
            },
        };
        Ok(Tensor { ty: ty.clone(), values })
    }

    /// The elements in little-endian order, floats rounded to nearest even.
    pub fn to_bytes(&self) -> Vec<u8> {
        let dtype = self.ty.dtype;
        match &self.values {
            Values::U32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::Bool(values) => values.iter().map(|&value| u8::from(value)).collect(),
            Values::Float(values) if dtype == DType::F32 => {
                values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()
            }
            // `half` drops the lower half of a double before it rounds; after `round` nothing is lost.
            Values::Float(values) if dtype == DType::F16 => {
                values.iter().flat_map(|&value| f16::from_f64(round(value, dtype)).to_le_bytes()).collect()
            }
            Values::Float(values) => {
                values.iter().flat_map(|&value| bf16::from_f64(round(value, dtype)).to_le_bytes()).collect()
            }
        }
    }
}

fn words<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&word| read(word)).collect()
}

/// The nearest number of a float type, ties to even; beyond the largest an infinity. Other types: the value.
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => round_bits(value, 11, -14, 65504.0),
        // The largest is (2 - 2^-7) 2^127.
        DType::Bf16 => round_bits(value, 8, -126, (2.0 - 0.0078125) * 2f64.powi(127)),
        DType::U32 | DType::Bool => value,
    }
}

/// Rounds to `precision` significant bits, fewer below the exponent `lowest` of the smallest normal number.
fn round_bits(value: f64, precision: i32, lowest: i32, largest: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let spacing = 2f64.powi(exponent.max(lowest) - (precision - 1));
    let rounded = (value / spacing).round_ties_even() * spacing;
    if rounded.abs() > largest { f64::INFINITY.copysign(value) } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f16 and bf16 is a fixed point, and the middle between neighbours goes to the even one, also a
    /// hair beyond the middle where a rounding through f32 would be wrong.
    #[test]
    fn rounding_is_to_nearest_even_without_a_detour() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
            check_between(low, high, bits, DType::F16);
        }
        for bits in 0..0x7f7f_u16 {
            let (low, high) = (bf16::from_bits(bits).to_f64(), bf16::from_bits(bits + 1).to_f64());
            check_between(low, high, bits, DType::Bf16);
        }
    }

    fn check_between(low: f64, high: f64, bits: u16, dtype: DType) {
        let middle = (low + high) / 2.0;
        let even = if bits.is_multiple_of(2) { low } else { high };
        for sign in [1.0, -1.0] {
            assert_eq!(round(sign * low, dtype), sign * low);
            assert_eq!(round(sign * middle, dtype), sign * even);
            assert_eq!(round(sign * middle * (1.0 + 1e-14), dtype), sign * high);
            assert_eq!(round(sign * middle * (1.0 - 1e-14), dtype), sign * low);
        }
    }

    #[test]
    fn rounding_overflows_to_infinity_only_beyond_the_middle() {
        assert_eq!(round(65519.9, DType::F16), 65504.0);
        assert_eq!(round(65520.0, DType::F16), f64::INFINITY);
        assert_eq!(round(-1e39, DType::Bf16), f64::NEG_INFINITY);
        assert!(round(f64::NAN, DType::Bf16).is_nan());
    }

    /// A plugin's buffers hold these bytes.
    #[test]
    fn bytes_are_little_endian_and_come_back() {
        let numbers = vec![1.0, -2.5, 0.0, 1e-7, f64::INFINITY, 3.140625];
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let tensor = Tensor::float(dtype, &[2, 3], numbers.clone()).unwrap().rounded();
            let back = Tensor::from_bytes(tensor.ty(), &tensor.to_bytes()).unwrap();
            assert_eq!(back, tensor);
        }
        let one = Tensor::float(DType::Bf16, &[1], vec![1.0]).unwrap();
        assert_eq!(one.to_bytes(), [0x80, 0x3f]);
        let word = Tensor::u32(&[1], vec![0x0403_0201]).unwrap();
        assert_eq!(word.to_bytes(), [1, 2, 3, 4]);
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let message = Tensor::from_bytes(&TensorType::new(DType::F32, &[2]), &[0; 7]).unwrap_err();
        assert_eq!(message.to_string(), "a tensor f32[2]: it takes 8 bytes; 7 are given");
        assert!(Tensor::from_bytes(&TensorType::new(DType::Bool, &[1]), &[2]).is_err());
    }
}

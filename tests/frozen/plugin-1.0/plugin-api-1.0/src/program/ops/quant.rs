//! Affine group quantization, 4 and 8 bits.

use super::{dims, expect, float, same};
use crate::program::ValueId;
use crate::program::attrs::Attrs;
use crate::program::builder::Builder;
use crate::program::table::Op;
use crate::program::types::{DType, TensorType};

/// Rows and columns of the matrix that packed numbers, scales and biases stand for.
fn matrix(types: &[TensorType], attrs: &Attrs) -> Result<TensorType, String> {
    let (packed, scales) = (&types[0], &types[1]);
    let (bits, group) = (attrs.get_int("bits"), attrs.get_int("group"));
    if !matches!(bits, 4 | 8) || group == 0 {
        return Err(format!("bits {bits} and group {group}: expected 4 or 8 bits, a group of at least 1"));
    }
    let [rows, words] = *dims::<2>(packed, "packed")?;
    expect(packed, DType::U32, &[rows, words], "packed")?;
    float(scales, "scales")?;
    same(scales, &types[2], "scales and biases")?;
    let columns = words * (32 / bits);
    if columns % group != 0 || scales.shape != [rows, columns / group] {
        return Err(format!("scales are {scales}; expected {rows} rows of {columns}/{group} groups"));
    }
    Ok(scales.with_shape(&[rows, columns]))
}

pub(crate) fn infer_dequantize(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    Ok(vec![matrix(types, attrs)?])
}

pub(crate) fn infer_quantized_matmul(types: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, String> {
    let weight = matrix(&types[1..], attrs)?;
    let [rows, columns] = *dims::<2>(&weight, "weight")?;
    let [count, _] = *dims::<2>(&types[0], "x")?;
    let (inner, outer) = if attrs.get_bool("transpose") { (columns, rows) } else { (rows, columns) };
    expect(&types[0], weight.dtype, &[count, inner], "x")?;
    Ok(vec![types[0].with_shape(&[count, outer])])
}

pub(crate) fn decompose_dequantize(b: &mut Builder, operands: &[ValueId], attrs: &Attrs) -> Vec<ValueId> {
    let (bits, group) = (attrs.get_int("bits"), attrs.get_int("group"));
    let [rows, words] = b.dims::<2>(operands[0]);
    let dtype = b.dtype(operands[1]);
    let per_word = 32 / bits.max(1);
    let columns = words * per_word;
    let split = TensorType::new(DType::U32, &[rows, words, per_word]);
    let packed = b.reshape(operands[0], &[rows, words, 1]);
    let packed = b.broadcast(packed, &split.shape);
    let place = b.iota(DType::U32, &split.shape, 2);
    let width = b.full(bits as f64, &split);
    let shift = b.mul(place, width);
    let shifted = b.apply(Op::Shr, &[packed, shift], Attrs::none());
    let mask = b.full(((1u64 << bits) - 1) as f64, &split);
    let numbers = b.apply(Op::And, &[shifted, mask], Attrs::none());
    let numbers = b.cast(numbers, DType::F32);
    let groups = columns / group.max(1);
    let numbers = b.reshape(numbers, &[rows, groups, group]);
    let [scales, biases] = [1, 2].map(|i| {
        let wide = b.cast(operands[i], DType::F32);
        b.reshape(wide, &[rows, groups, 1])
    });
    let scaled = b.mul_broadcast(numbers, scales);
    let values = b.add_broadcast(scaled, biases);
    let values = b.reshape(values, &[rows, columns]);
    vec![b.cast(values, dtype)]
}

pub(crate) fn decompose_quantized_matmul(
    b: &mut Builder,
    operands: &[ValueId],
    attrs: &Attrs,
) -> Vec<ValueId> {
    let inner = Attrs::none().int("bits", attrs.get_int("bits")).int("group", attrs.get_int("group"));
    let weight = b.apply(Op::Dequantize, &operands[1..], inner);
    vec![b.matmul(operands[0], weight, false, attrs.get_bool("transpose"))]
}

//! Affine groups of 4 or 8 bits. MLX stores them as the language does; its kernels take groups of 32, 64 and 128.

use finetune_plugin_api::export::Error;
use finetune_plugin_api::program::DType;

use super::{Step, scalar_u32};
use crate::mlx::{Array, Mlx};

const GROUPS: [usize; 3] = [32, 64, 128];

pub fn dequantize(step: &Step) -> Result<Array, Error> {
    step.narrow(0, &wide(step, 0)?)
}

/// The matrix in f32; its three operands begin with that number.
fn wide(step: &Step, first: usize) -> Result<Array, Error> {
    let (bits, group) = (step.attrs.get_int("bits"), step.attrs.get_int("group"));
    let [rows, words] = step.types[first].shape[..] else {
        return Err(Error::invalid_program("a quantized matrix has two dimensions"));
    };
    let (mlx, per_word) = (step.mlx, 32 / bits);
    let columns = words * per_word;
    let numbers = unpack(mlx, step.operands[first], [rows, words], bits)?;
    let grouped = mlx.reshape(&numbers, &[rows, columns / group, group])?;
    let each = |i: usize| mlx.reshape(&step.wide(first + i)?, &[rows, columns / group, 1]);
    let values = mlx.add(&mlx.mul(&grouped, &each(1)?)?, &each(2)?)?;
    mlx.reshape(&values, &[rows, columns])
}

fn unpack(mlx: &Mlx, packed: &Array, [rows, words]: [usize; 2], bits: usize) -> Result<Array, Error> {
    let by = mlx.mul(&mlx.count(32 / bits, DType::U32)?, &scalar_u32(bits as u32)?)?;
    let shifted =
        mlx.shr(&mlx.reshape(packed, &[rows, words, 1])?, &mlx.reshape(&by, &[1, 1, 32 / bits])?)?;
    mlx.f32(&mlx.bit_and(&shifted, &scalar_u32((1 << bits) - 1)?)?)
}

pub fn matmul(step: &Step) -> Result<Array, Error> {
    let (bits, group) = (step.attrs.get_int("bits"), step.attrs.get_int("group"));
    let transpose = step.attrs.get_bool("transpose");
    if step.mlx.gpu && GROUPS.contains(&group) && step.types[1].shape[0].is_multiple_of(32) {
        let matrix = [step.operands[1], step.operands[2], step.operands[3]];
        return step.mlx.quantized_matmul(step.operands[0], matrix, transpose, group, bits);
    }
    let matrix = wide(step, 1)?;
    let matrix = if transpose { step.mlx.transpose(&matrix)? } else { matrix };
    step.narrow(0, &step.mlx.matmul(&step.wide(0)?, &matrix)?)
}

//! Ops on one element of each operand, on a GPU: one kernel does them all, alone or one after another, and reads
//! operands however they lie (`source/elementwise.h`).

use candle_core::{DType as CandleType, Device as Placed, Layout, Result, Tensor};

use super::{Launch, VECTOR, empty};

const OPERANDS: usize = 8;
const DIMENSIONS: usize = 8;
const STEPS: usize = 24;
const THREADS: usize = 128;

/// `Elementwise` in the kernel's source.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parameters {
    count: u64,
    strides: [[u64; DIMENSIONS]; OPERANDS],
    dims: [u32; DIMENSIONS],
    rank: u32,
    steps: u32,
    program: [u32; STEPS],
    types: [u32; OPERANDS],
    ways: [u32; OPERANDS],
    result: u32,
    wide: u32,
}

/// What a step does; the numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Take = 0,
    Neg = 1,
    Abs = 2,
    Exp = 3,
    Log = 4,
    Sqrt = 5,
    Rsqrt = 6,
    Sin = 7,
    Cos = 8,
    Tanh = 9,
    Erf = 10,
    Add = 16,
    Sub = 17,
    Mul = 18,
    Div = 19,
    Max = 20,
    Min = 21,
    Eq = 24,
    Ne = 25,
    Lt = 26,
    Le = 27,
    Gt = 28,
    Ge = 29,
    WordAdd = 32,
    WordSub = 33,
    WordMul = 34,
    WordDiv = 35,
    WordMax = 36,
    WordMin = 37,
    WordAnd = 38,
    WordOr = 39,
    WordShl = 40,
    WordShr = 41,
    WordEq = 48,
    WordNe = 49,
    WordLt = 50,
    WordLe = 51,
    WordGt = 52,
    WordGe = 53,
    /// a where what the step before left is true, else b.
    Select = 56,
    WordIsSet = 57,
    FloatIsSet = 58,
    Not = 59,
    WordToFloat = 60,
    FloatToWord = 61,
    /// To a float that rounds to 16 bits as the word itself would.
    WordToFloat16 = 62,
}

/// Where a step's operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Operand(usize),
    /// The step has no such operand.
    Nothing,
}

impl From {
    fn code(self) -> u32 {
        match self {
            From::Operand(number) => number as u32,
            From::Nothing => 255,
        }
    }
}

/// Steps, the last of which computes the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    list: Vec<u32>,
}

impl Steps {
    pub fn one(code: Code, a: From, b: From) -> Steps {
        let mut steps = Steps::default();
        steps.push(code, a, b);
        steps
    }

    pub fn push(&mut self, code: Code, a: From, b: From) {
        self.list.push(code as u32 | a.code() << 8 | b.code() << 16);
    }
}

/// An operand: a tensor, or the index along an axis of the result.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    Tensor(&'a Tensor),
    Index(usize),
}

/// Runs the steps for every element of a new tensor. Operands have its shape.
pub fn run(
    placed: &Placed,
    steps: &Steps,
    operands: &[Operand],
    dtype: CandleType,
    shape: &[usize],
) -> Result<Tensor> {
    let result = empty(shape, dtype, placed)?;
    run_into(steps, operands, &result)?;
    Ok(result)
}

/// Runs the steps for every element of `result`, which is contiguous and may be one of the operands.
pub fn run_into(steps: &Steps, operands: &[Operand], result: &Tensor) -> Result<()> {
    if operands.len() > OPERANDS || steps.list.len() > STEPS {
        candle_core::bail!("{} operands and {} steps are too many", operands.len(), steps.list.len())
    }
    let parameters = parameters(steps, operands, result)?;
    // An operand that is not there is never read.
    let mut tensors = [result; OPERANDS + 1];
    for (place, operand) in tensors.iter_mut().zip(operands) {
        if let Operand::Tensor(tensor) = operand {
            *place = tensor;
        }
    }
    let count = result.elem_count();
    Launch {
        name: "elementwise",
        tensors: &tensors,
        parameters: super::Parameters::Elementwise(&parameters),
        blocks: count.div_ceil(VECTOR * THREADS).clamp(1, super::MOST_BLOCKS),
        threads: THREADS,
    }
    .run()
}

fn parameters(steps: &Steps, operands: &[Operand], result: &Tensor) -> Result<Parameters> {
    let mut p = Parameters {
        count: result.elem_count() as u64,
        strides: [[0; DIMENSIONS]; OPERANDS],
        dims: [1; DIMENSIONS],
        rank: 0,
        steps: steps.list.len() as u32,
        program: [0; STEPS],
        types: [0; OPERANDS],
        ways: [0; OPERANDS],
        result: type_of(result.dtype())?,
        wide: 0,
    };
    p.program[..steps.list.len()].copy_from_slice(&steps.list);
    let mut strides: Vec<Vec<usize>> = Vec::with_capacity(operands.len());
    let mut is_wide = super::is_wide(&[result], VECTOR);
    for (number, operand) in operands.iter().enumerate() {
        let (own, ty) = match operand {
            Operand::Tensor(tensor) => (tensor.stride().to_vec(), type_of(tensor.dtype())?),
            Operand::Index(axis) => {
                let along = |d: usize| usize::from(d == *axis);
                ((0..result.rank()).map(along).collect(), INDEX)
            }
        };
        p.types[number] = ty;
        p.ways[number] = match operand {
            Operand::Tensor(tensor) if lies_as(tensor.layout(), result.dims()) => LINEAR,
            Operand::Tensor(_)
                if own.iter().zip(result.dims()).all(|(&stride, &dim)| stride == 0 || dim == 1) =>
            {
                SCALAR
            }
            _ => STRIDED,
        };
        if let Operand::Tensor(tensor) = operand {
            is_wide &= p.ways[number] != LINEAR || super::is_wide(&[tensor], VECTOR);
        }
        strides.push(own);
    }
    p.wide = u32::from(is_wide);
    let dims = merged(result.dims(), &mut strides);
    for (d, &dim) in dims.iter().enumerate() {
        p.dims[d] = u32::try_from(dim)
            .map_err(|_| candle_core::Error::Msg(format!("a dimension of {dim} elements is beyond 2^32")))?;
    }
    p.rank = dims.len() as u32;
    for (place, own) in p.strides.iter_mut().zip(&strides) {
        place.iter_mut().zip(own).for_each(|(place, &stride)| *place = stride as u64);
    }
    Ok(p)
}

const LINEAR: u32 = 0;
const SCALAR: u32 = 1;
const STRIDED: u32 = 2;
const INDEX: u32 = 5;

fn type_of(dtype: CandleType) -> Result<u32> {
    Ok(match dtype {
        CandleType::F32 => 0,
        CandleType::F16 => 1,
        CandleType::BF16 => 2,
        CandleType::U32 => 3,
        CandleType::U8 => 4,
        other => candle_core::bail!("there are no kernels for elements of {other:?}"),
    })
}

/// Whether the elements lie one after another, wherever they begin.
fn lies_as(layout: &Layout, dims: &[usize]) -> bool {
    layout.dims() == dims && layout.is_contiguous()
}

/// Dimensions without those of one element, neighbours made one where all operands allow it.
fn merged(dims: &[usize], strides: &mut [Vec<usize>]) -> Vec<usize> {
    let mut kept: Vec<usize> = Vec::with_capacity(dims.len());
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); strides.len()];
    for (d, &dim) in dims.iter().enumerate() {
        if dim == 1 {
            continue;
        }
        let follows = |(own, strides): (&Vec<usize>, &Vec<usize>)| own.last() == Some(&(strides[d] * dim));
        match kept.last_mut() {
            Some(last) if own.iter().zip(&*strides).all(follows) => {
                *last *= dim;
                own.iter_mut().zip(&*strides).for_each(|(own, strides)| {
                    own.pop();
                    own.push(strides[d]);
                });
            }
            _ => {
                kept.push(dim);
                own.iter_mut().zip(&*strides).for_each(|(own, strides)| own.push(strides[d]));
            }
        }
    }
    strides.iter_mut().zip(own).for_each(|(place, own)| *place = own);
    kept
}

/// A copy whose elements lie one after another.
pub fn copied(x: &Tensor) -> Result<Tensor> {
    run(
        x.device(),
        &Steps::one(Code::Take, From::Operand(0), From::Nothing),
        &[Operand::Tensor(x)],
        x.dtype(),
        x.dims(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wrong merge would read other elements: [2, 3, 4] whole is one dimension, a row repeated is two.
    #[test]
    fn dimensions_merge_where_every_operand_runs_on() {
        let mut strides = vec![vec![12, 4, 1], vec![12, 4, 1]];
        assert_eq!(merged(&[2, 3, 4], &mut strides), [24]);
        assert_eq!(strides, [[1], [1]]);
        let mut strides = vec![vec![12, 4, 1], vec![0, 0, 1]];
        assert_eq!(merged(&[2, 3, 4], &mut strides), [6, 4]);
        assert_eq!(strides, [[4, 1], [0, 1]]);
        // Columns of a matrix: nothing runs on but the dimension of one element.
        let mut strides = vec![vec![1, 2, 7, 6]];
        assert_eq!(merged(&[2, 3, 1, 4], &mut strides), [2, 3, 4]);
        assert_eq!(strides, [[1, 2, 6]]);
    }

    /// The kernel's source has the same numbers: an enum there and one here cannot be compared by the compiler.
    #[test]
    fn the_limits_are_those_of_the_source() {
        let source = include_str!("source/elementwise.h");
        for (name, limit) in [
            ("OPERANDS", OPERANDS),
            ("DIMENSIONS", DIMENSIONS),
            ("STEPS", STEPS),
            ("ELEMENTWISE_THREADS", THREADS),
        ] {
            assert!(
                source.contains(&format!("#define {name} {limit}\n")),
                "{name} is not {limit} in the source"
            );
        }
    }
}

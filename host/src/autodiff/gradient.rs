//! The gradient of one value while the walk collects it.

use finetune_plugin_api::program::{Attrs, Builder, DType, Op, ValueId};

/// The gradient of the loss with respect to one value, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Gradient {
    /// The loss's own gradient: the number 1, written into the program only if a rule reads it.
    One,
    /// This value.
    Value(ValueId),
    /// The sum of these blocks, each with zeros around it. Not yet written, as the blocks of all slices of a
    /// value together often are the whole: a joint projection of queries, keys and values, say.
    Blocks(Vec<Block>),
}

/// A part of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Where it begins.
    pub start: Vec<usize>,
    /// What it is.
    pub value: ValueId,
}

impl Gradient {
    /// It as a value of the type of `of`.
    pub fn value(self, b: &mut Builder, of: ValueId) -> ValueId {
        match self {
            Gradient::One => b.constant(1.0, DType::F32),
            Gradient::Value(value) => value,
            Gradient::Blocks(blocks) => join(b, of, blocks),
        }
    }

    /// Blocks as one value, so that they are joined only once however often they are read.
    pub fn written(self, b: &mut Builder, of: ValueId) -> Gradient {
        match self {
            Gradient::Blocks(blocks) => Gradient::Value(join(b, of, blocks)),
            known => known,
        }
    }

    /// The gradient so far of the value `of` plus one block.
    pub fn with_block(b: &mut Builder, of: ValueId, so_far: Option<Gradient>, block: Block) -> Gradient {
        match so_far {
            None => Gradient::Blocks(vec![block]),
            Some(Gradient::Blocks(mut blocks)) => {
                blocks.push(block);
                Gradient::Blocks(blocks)
            }
            Some(so_far) => {
                let (so_far, more) = (so_far.value(b, of), padded(b, of, &block));
                Gradient::Value(b.add(so_far, more))
            }
        }
    }
}

/// The blocks side by side if that is the whole of `of`, else the sum of each with zeros around it.
fn join(b: &mut Builder, of: ValueId, mut blocks: Vec<Block>) -> ValueId {
    if let Some(axis) = side_by_side(b, of, &mut blocks) {
        let values: Vec<ValueId> = blocks.iter().map(|block| block.value).collect();
        return b.concat(&values, axis);
    }
    let mut sum = None;
    for block in &blocks {
        let more = padded(b, of, block);
        sum = Some(match sum {
            None => more,
            Some(sum) => b.add(sum, more),
        });
    }
    sum.unwrap_or_else(|| b.full_like(0.0, of))
}

/// The axis along which the blocks make up the whole of `of`, if there is one; sorts them along it.
fn side_by_side(b: &Builder, of: ValueId, blocks: &mut [Block]) -> Option<usize> {
    let whole = b.shape(of);
    let narrow = b.shape(blocks.first()?.value);
    let axis = (0..whole.len()).find(|&dim| narrow[dim] != whole[dim])?;
    blocks.sort_by_key(|block| block.start[axis]);
    let mut end = 0;
    for block in blocks.iter() {
        let shape = b.shape(block.value);
        let wide = (0..whole.len()).all(|dim| dim == axis || shape[dim] == whole[dim]);
        if !wide || block.start[axis] != end {
            return None;
        }
        end += shape[axis];
    }
    (end == whole[axis]).then_some(axis)
}

/// A block with zeros around it, of the type of `of`.
fn padded(b: &mut Builder, of: ValueId, block: &Block) -> ValueId {
    let (whole, size) = (b.shape(of), b.shape(block.value));
    let high: Vec<usize> = (0..whole.len()).map(|dim| whole[dim] - block.start[dim] - size[dim]).collect();
    b.apply(Op::Pad, &[block.value], Attrs::none().ints("low", &block.start).ints("high", &high))
}

//! Attention without scores in memory, on NVIDIA's matrix units (`source/flash_cuda.h`).

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::AttentionShape;

use super::Step;
use crate::kernel::{self, Numbers};

/// Rows of a block.
const TILE: usize = 64;
/// Threads of a block: a warp has 16 rows.
const THREADS: usize = 128;

/// Whether the kernels are there for these operands. Short rows are cheap enough to be computed in f32 throughout.
pub fn is_for(step: &Step) -> bool {
    let (q, k, v) = (&step.types[0].shape, &step.types[1].shape, &step.types[2].shape);
    let is_short = matches!(step.operands[0].dtype(), CandleType::F16 | CandleType::BF16);
    let fits = q[3] == v[3] && [64, 128].contains(&q[3]) && v[1] > super::attention::SHORT;
    let is_wide =
        (0..3).all(|i| !step.operands[i].is_contiguous() || kernel::is_wide(&[step.operands[i]], q[3]));
    let has_turn = is_one_turn([q[0], q[1], q[2]]) && is_one_turn([k[0], k[1], k[2]]);
    cfg!(feature = "cuda") && is_short && fits && is_wide && has_turn
}

/// Whether each tile of so many rows (batch, positions, heads) gets a block of its own: a block does one tile alone.
fn is_one_turn([batch, positions, heads]: [usize; 3]) -> bool {
    batch * heads * positions.div_ceil(TILE) <= kernel::MOST_BLOCKS
}

/// An operand whose rows a kernel reads 16 bytes at a time: where they begin elsewhere it reads a copy.
fn wide(step: &Step, operand: usize) -> Result<Tensor> {
    let x = step.flat(operand)?;
    let is_wide = kernel::is_wide(&[&x], step.types[operand].shape[3]);
    if is_wide { Ok(x) } else { super::copied(&x) }
}

fn numbers(step: &Step) -> Numbers {
    let AttentionShape { batch, queries, heads, keys, groups, causal, window, segments, scale, .. } =
        step.attention();
    let whole = [batch, queries, heads, keys, groups, usize::from(causal), window, usize::from(segments)];
    Numbers::new(&whole, &[scale])
}

fn launch(step: &Step, kind: &str, tensors: &[&Tensor], blocks: usize) -> Result<()> {
    let name =
        format!("flash_{kind}_{}_{}", kernel::suffix(step.operands[0].dtype())?, step.types[0].shape[3]);
    kernel::launch(&name, tensors, numbers(step), blocks, THREADS)
}

pub fn forward(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let [q, k, v] = [step.flat(0)?, step.flat(1)?, step.flat(2)?];
    let [start, valid, segments] = super::attention::rows(step)?;
    let AttentionShape { batch, queries, heads, .. } = step.attention();
    let out = step.empty(0)?;
    let lse = kernel::empty(&[batch, heads, queries], CandleType::F32, step.placed)?;
    let tensors = [&q, &k, &v, &start, &valid, &segments, &out, &lse];
    launch(step, "forward", &tensors, batch * heads * queries.div_ceil(TILE))?;
    let lse = step.attrs.get_bool("lse").then_some(lse);
    Ok([Some(out)].into_iter().chain(lse.map(Some)).collect())
}

/// With the forward op's out and lse.
pub fn grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    let [q, k, v] = [step.flat(0)?, step.flat(1)?, step.flat(2)?];
    let [start, valid, segments] = super::attention::rows(step)?;
    let shape @ AttentionShape { batch, queries, heads, keys, groups, .. } = step.attention();
    let first = shape.dout();
    let [dout, out, lse] = [wide(step, first)?, step.flat(first + 1)?, step.flat(first + 2)?];
    let delta = kernel::empty(&[batch, heads, queries], CandleType::F32, step.placed)?;
    launch(step, "delta", &[&dout, &out, &delta], (batch * heads * queries).div_ceil(THREADS / 32))?;
    let [dq, dk, dv] = [step.empty(0)?, step.empty(1)?, step.empty(2)?];
    let read = [&q, &k, &v, &start, &valid, &segments, &dout, &lse, &delta];
    let tensors: Vec<&Tensor> = read.into_iter().chain([&dq]).collect();
    launch(step, "queries", &tensors, batch * heads * queries.div_ceil(TILE))?;
    let tensors: Vec<&Tensor> = read.into_iter().chain([&dk, &dv]).collect();
    launch(step, "keys", &tensors, batch * groups * keys.div_ceil(TILE))?;
    Ok(vec![Some(dq), Some(dk), Some(dv)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles beyond the largest number of blocks would be done by nobody.
    #[test]
    fn every_tile_has_a_block() {
        assert!(is_one_turn([1, 1 << 21, 32]));
        assert!(!is_one_turn([1, (1 << 21) + 1, 32]));
        assert!(is_one_turn([1 << 10, 64, 1 << 10]));
        assert!(!is_one_turn([1 << 10, 65, 1 << 10]));
    }
}

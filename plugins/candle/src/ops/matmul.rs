//! Matrix products.

use candle_core::{Result, Tensor};

use super::Step;

pub fn run(step: &Step) -> Result<Tensor> {
    let operand = |number: usize, transpose: &str| {
        // Shorter types on the processor would be summed in themselves.
        let x = if step.placed.is_cpu() { step.wide(number)? } else { step.operands[number].clone() };
        let x = x.contiguous()?;
        let rank = x.rank();
        if step.attrs.get_bool(transpose) { x.transpose(rank - 2, rank - 1) } else { Ok(x) }
    };
    let product = operand(0, "transpose_a")?.matmul(&operand(1, "transpose_b")?)?;
    step.narrow(0, &product)
}

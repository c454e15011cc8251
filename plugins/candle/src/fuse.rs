//! Which ops a GPU does together: a product and the sum that it goes into, which is then made in the place of the other
//! summand, without the product ever being in memory.

use std::collections::BTreeMap;

use finetune_plugin_api::plan;
use finetune_plugin_api::program::{DType, Op, Program, ValueId};

/// Products by the number of the sum that does them.
#[derive(Default)]
pub struct Fused {
    /// Which node is done within which: products, and casts of them.
    pub into: BTreeMap<usize, usize>,
    sums: BTreeMap<usize, Sum>,
}

/// c + a b, the product in c's type at once.
#[derive(Clone, Copy)]
pub struct Sum {
    pub product: usize,
    pub summand: ValueId,
}

impl Fused {
    pub fn of(program: &Program) -> Fused {
        let uses = plan::Uses::of(program);
        let only = |value: ValueId, op: Op| {
            let maker = uses.maker(value)?;
            let is_it = program.nodes()[maker].op == op && uses.readers(value) == 1;
            is_it.then_some(maker)
        };
        let mut fused = Fused::default();
        for (number, node) in program.nodes().iter().enumerate() {
            let [a, b] = node.operands[..] else { continue };
            if node.op != Op::Add || a == b {
                continue;
            }
            // The later of two products: what it is added to is there by then.
            for (value, summand) in [(b, a), (a, b)] {
                if let Some(product) = only(value, Op::Matmul) {
                    fused.add(number, Sum { product, summand }, None);
                    break;
                }
                let Some(cast) = only(value, Op::Cast).filter(|_| program.ty(value).dtype == DType::F32)
                else {
                    continue;
                };
                if let Some(product) = only(program.nodes()[cast].operands[0], Op::Matmul) {
                    fused.add(number, Sum { product, summand }, Some(cast));
                    break;
                }
            }
        }
        fused
    }

    fn add(&mut self, number: usize, sum: Sum, cast: Option<usize>) {
        self.into.insert(sum.product, number);
        self.into.extend(cast.map(|cast| (cast, number)));
        self.sums.insert(number, sum);
    }

    pub fn sum(&self, node: usize) -> Option<Sum> {
        self.sums.get(&node).copied()
    }
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::text;

    use super::*;

    /// A product that something else reads is kept; one in a cast goes along with it.
    #[test]
    fn products_go_into_the_sums_that_alone_read_them() {
        let program = text::parse(
            "finetune.program 1\n%0 = input \"a\" : bf16[2,2]\n%1 = state \"g\" : f32[2,2]\n\
             %2 = matmul(%0, %0) : bf16[2,2]\n%3 = cast(%2) {dtype = f32} : f32[2,2]\n%4 = add(%1, %3) : f32[2,2]\n\
             %5 = matmul(%0, %0) {transpose_a = true} : bf16[2,2]\n%6 = add(%5, %0) : bf16[2,2]\n\
             %7 = matmul(%6, %0) : bf16[2,2]\n%8 = add(%7, %7) : bf16[2,2]\n\
             update %1 = %4\noutput \"y\" = %8\nend\n",
        )
        .unwrap();
        let fused = Fused::of(&program);
        assert_eq!(fused.into, BTreeMap::from([(0, 2), (1, 2), (3, 4)]));
        assert_eq!(fused.sum(2).map(|sum| (sum.product, sum.summand.index())), Some((0, 1)));
        assert!(fused.sum(6).is_none());
    }
}

//! Sums with matrix products among their terms: MLX adds such a product to the others where it is made, and the
//! memory is passed over once less.

use std::collections::HashMap;

use finetune_plugin_api::plan;
use finetune_plugin_api::program::{DType, Op, Program, ValueId};

use crate::mlx::Mlx;

/// A sum of values and of products, these by the numbers of their nodes.
#[derive(Debug, Default, PartialEq)]
pub struct Sum {
    pub values: Vec<ValueId>,
    pub products: Vec<usize>,
}

/// The sums of a program.
pub struct Sums {
    by_node: HashMap<usize, Sum>,
    /// Nodes that are part of a sum and nothing else.
    parts: Vec<bool>,
}

impl Sums {
    /// Those that the device computes faster so. On CUDA there are none: MLX copies the other terms there first,
    /// with an engine for copies that is many times slower than a kernel, and adding afterwards is one fused kernel.
    /// On a processor only f32 is taken, as shorter types are widened for products.
    pub fn of(program: &Program, mlx: &Mlx) -> Sums {
        match mlx.gpu && !cfg!(target_os = "macos") {
            true => Sums::none(program),
            false => Sums::search(program, mlx.gpu),
        }
    }

    fn none(program: &Program) -> Sums {
        Sums { by_node: HashMap::new(), parts: vec![false; program.nodes().len()] }
    }

    fn search(program: &Program, gpu: bool) -> Sums {
        let search = Search::new(program, gpu);
        let mut sums = Sums::none(program);
        for (at, node) in program.nodes().iter().enumerate().rev() {
            if node.op != Op::Add || sums.parts[at] || !search.takes(node.results[0]) {
                continue;
            }
            let (mut sum, mut parts) = (Sum::default(), Vec::new());
            node.operands.iter().for_each(|&operand| search.expand(operand, &mut sum, &mut parts));
            if sum.products.is_empty() {
                continue;
            }
            parts.into_iter().for_each(|part| sums.parts[part] = true);
            sum.products.sort_by_key(|&product| search.inner(product));
            sums.by_node.insert(at, sum);
        }
        sums
    }

    /// The sum that a node is, if it has products among its terms.
    pub fn at(&self, node: usize) -> Option<&Sum> {
        self.by_node.get(&node)
    }

    pub fn is_part(&self, node: usize) -> bool {
        self.parts[node]
    }
}

struct Search<'a> {
    program: &'a Program,
    gpu: bool,
    uses: plan::Uses,
}

impl<'a> Search<'a> {
    fn new(program: &'a Program, gpu: bool) -> Search<'a> {
        Search { program, gpu, uses: plan::Uses::of(program) }
    }

    fn takes(&self, value: ValueId) -> bool {
        let ty = self.program.ty(value);
        ty.shape.len() == 2 && (ty.dtype == DType::F32 || (self.gpu && ty.dtype.is_float()))
    }

    /// Adds a value to a sum, as its own terms where nothing else reads it.
    fn expand(&self, value: ValueId, sum: &mut Sum, parts: &mut Vec<usize>) {
        let maker = self.uses.maker(value).filter(|_| self.uses.readers(value) == 1);
        let Some(at) = maker else { return sum.values.push(value) };
        let node = &self.program.nodes()[at];
        match node.op {
            Op::Add => node.operands.iter().for_each(|&operand| self.expand(operand, sum, parts)),
            Op::Matmul if node.operands.iter().all(|&operand| self.takes(operand)) => sum.products.push(at),
            _ => return sum.values.push(value),
        }
        parts.push(at);
    }

    /// How many numbers a product sums for each of its elements.
    fn inner(&self, product: usize) -> usize {
        let node = &self.program.nodes()[product];
        let shape = &self.program.ty(node.operands[0]).shape;
        if node.attrs.get_bool("transpose_a") { shape[0] } else { shape[1] }
    }
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::text;

    use super::*;

    /// A LoRA layer's output and the residual: one sum of one value and two products, the small one first.
    #[test]
    fn products_of_a_chain_of_additions_are_terms_of_one_sum() {
        let program = text::parse(
            "finetune.program 1\n%0 = input \"x\" : f32[4,8]\n%1 = param \"w\" : f32[8,8]\n\
             %2 = param \"a\" : f32[2,8]\n%3 = param \"b\" : f32[8,2]\n\
             %4 = matmul(%0, %1) {transpose_b = true} : f32[4,8]\n\
             %5 = matmul(%0, %2) {transpose_b = true} : f32[4,2]\n\
             %6 = matmul(%5, %3) {transpose_b = true} : f32[4,8]\n\
             %7 = add(%4, %6) : f32[4,8]\n%8 = add(%0, %7) : f32[4,8]\noutput \"y\" = %8\nend\n",
        )
        .unwrap();
        let sums = Sums::search(&program, false);
        let expected = Sum { values: vec![program.args()[0].value], products: vec![2, 0] };
        assert_eq!(sums.at(4), Some(&expected));
        let parts: Vec<bool> = (0..5).map(|node| sums.is_part(node)).collect();
        assert_eq!(parts, [true, false, true, true, false]);
    }

    /// What something else reads, too, is computed by itself.
    #[test]
    fn a_product_that_is_read_twice_is_no_part_of_a_sum() {
        let program = text::parse(
            "finetune.program 1\n%0 = input \"x\" : f32[4,4]\n%1 = matmul(%0, %0) : f32[4,4]\n\
             %2 = add(%0, %1) : f32[4,4]\noutput \"y\" = %2\noutput \"z\" = %1\nend\n",
        )
        .unwrap();
        let sums = Sums::search(&program, false);
        assert_eq!(sums.at(1), None);
        assert!(!sums.is_part(0));
    }
}

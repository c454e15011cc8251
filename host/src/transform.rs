//! Program to program: what is done to a finished program before a device compiles it.

use finetune_plugin_api::program::{NativeOps, Program, ProgramError, lower};

/// The program as a device with these native ops can take it: composites that it has not are written as
/// simpler ops, and ops that nobody reads are dropped. Arguments, updates and outputs stay as they are.
pub fn for_device(program: &Program, native: &NativeOps) -> Result<Program, ProgramError> {
    lower(program, &|node| native.has(node))
}

#[cfg(test)]
mod tests {
    use finetune_plugin_api::program::{Attrs, Builder, Class, DType, Op, TensorType};

    use super::*;
    use crate::autodiff::{Options, gradients};

    /// Attention and its gradient, built for a device.
    fn attention(native: &NativeOps) -> Program {
        let mut b = Builder::new();
        let q = b.state("q", TensorType::new(DType::F32, &[1, 3, 2, 4]));
        let bounds = b.input("bounds", TensorType::new(DType::U32, &[1]));
        let attrs = Attrs::none().float("scale", 0.5);
        let out = b.apply(Op::Attention, &[q, q, q, bounds, bounds], attrs);
        let loss = b.sum_squares(out);
        let found = gradients(&mut b, loss, &[q], Options::for_device(native)).unwrap();
        b.output("dq", found[0]);
        for_device(&b.finish().unwrap(), native).unwrap()
    }

    /// A native attention without log-sum-exp must not be lowered for asking one of it.
    #[test]
    fn a_native_attention_stays_whether_or_not_it_gives_the_log_sum_exp() {
        for (names, lse) in [
            (&["attention", "attention_grad"][..], false),
            (&["attention", "attention_grad", "attention.lse"], true),
        ] {
            let program = attention(&NativeOps::of(names));
            let kept = program.nodes().iter().filter(|node| node.op.def().class == Class::Composite);
            let kept: Vec<_> = kept.map(|node| (node.op, node.attrs.get_bool("lse"))).collect();
            assert_eq!(kept, [(Op::Attention, lse), (Op::AttentionGrad, lse)]);
        }
        let program = attention(&NativeOps::none());
        assert!(program.nodes().iter().all(|node| node.op.def().class == Class::Core));
    }
}

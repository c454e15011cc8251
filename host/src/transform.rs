//! Program to program: what is done to a finished program before a device compiles it.

mod recompute;

use std::collections::BTreeSet;

use finetune_plugin_api::program::{Class, NativeOps, Program, ProgramError, lower};

pub use recompute::recompute;

/// The program as a device with these native ops can take it: composites that it has not are written as
/// simpler ops, and ops that nobody reads are dropped. Arguments, updates and outputs stay as they are.
pub fn for_device(program: &Program, native: &NativeOps) -> Result<Program, ProgramError> {
    let lowered = lower(program, &|node| native.has(node))?;
    if tracing::enabled!(tracing::Level::DEBUG) {
        let (given, taken) = (composites(program), composites(&lowered));
        tracing::debug!(
            "{} ops are {} for the device; native: {}; written as simpler ops: {}",
            program.nodes().len(),
            lowered.nodes().len(),
            list(&taken),
            list(&given.difference(&taken).copied().collect())
        );
    }
    Ok(lowered)
}

/// The composite ops that a program has.
fn composites(program: &Program) -> BTreeSet<&'static str> {
    let defs = program.nodes().iter().map(|node| node.op.def());
    defs.filter(|def| def.class == Class::Composite).map(|def| def.name).collect()
}

fn list(names: &BTreeSet<&str>) -> String {
    match names.is_empty() {
        true => "none".into(),
        false => names.iter().copied().collect::<Vec<_>>().join(" "),
    }
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

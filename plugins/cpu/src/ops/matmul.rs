//! The matrix product over the last two dimensions.

use finetune_plugin_api::program::DType;

use super::gemm::{Matrix, Target, multiply};
use super::{Step, parallel};
use crate::storage::Src;

pub fn run(step: &mut Step) {
    let transposes = [step.attrs.get_bool("transpose_a"), step.attrs.get_bool("transpose_b")];
    let [a, b] = &step.src[..] else { return };
    let Some(Some(y)) = step.dst.first() else { return };
    let batch: usize = a.shape[..a.shape.len() - 2].iter().product();
    let pair = |i: usize| {
        (
            Target { dst: y, start: i * (y.elements() / batch) },
            [(a, transposes[0]), (b, transposes[1])].map(|(x, transposed)| {
                let x = Matrix::Plain(matrix(x, i));
                if transposed { x.transposed() } else { x }
            }),
        )
    };
    let plain = [a.stored, b.stored, y.dtype] == [DType::F32; 3];
    let work_of_one = y.elements() / batch * a.shape[a.shape.len() - 1 - usize::from(transposes[0])].max(1);
    if plain && batch > 1 && work_of_one < 1 << 24 {
        // Many small products: a thread for each.
        return parallel(batch, 1, |range| {
            for i in range {
                let (target, [a, b]) = pair(i);
                multiply(&target, &a, &b, &mut [], false);
            }
        });
    }
    for i in 0..batch {
        let (target, [a, b]) = pair(i);
        multiply(&target, &a, &b, step.work, true);
    }
}

/// The matrix of that number in a batch.
fn matrix<'a>(x: &Src<'a>, number: usize) -> Src<'a> {
    let outer = x.shape.len() - 2;
    let (mut rest, mut start) = (number, 0);
    for d in (0..outer).rev() {
        start += rest % x.shape[d] * x.strides[d];
        rest /= x.shape[d];
    }
    x.view(start, &x.shape[outer..], &x.strides[outer..])
}

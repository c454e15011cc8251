//! Ops that move elements without changing them, and copies of views.

use finetune_plugin_api::program::{DType, Op};

use super::{BLOCK, GRAIN, Step, blocks, parallel};
use crate::storage::{Dst, Src, rounded};

pub fn run(step: &mut Step) {
    let Some(y) = step.out() else { return };
    match step.op {
        Op::Iota => iota(y, step.attrs.get_int("axis")),
        Op::Pad => pad(&step.src[0], y, &step.attrs.get_ints("low"), step.attrs.get_float("value")),
        Op::Concat => {
            let axis = step.attrs.get_int("axis");
            let mut at = vec![0; y.shape.len()];
            for x in &step.src {
                copy_block(x, y, &at);
                at[axis] += x.shape[axis];
            }
        }
        Op::DynamicSlice => {
            let (x, axis, size) = (&step.src[0], step.attrs.get_int("axis"), step.attrs.get_int("size"));
            let start = (step.src[1].at_u32(0) as usize).min(x.shape[axis] - size);
            copy(&x.view(start * x.strides[axis], &y.shape, &x.strides), y);
        }
        Op::UpdateSlice => {
            let (base, update, axis) = (&step.src[0], &step.src[1], step.attrs.get_int("axis"));
            let start = (step.src[2].at_u32(0) as usize).min(y.shape[axis] - update.shape[axis]);
            if !y.is_at(base) {
                copy(base, y);
            }
            let mut at = vec![0; y.shape.len()];
            at[axis] = start;
            copy_block(update, y, &at);
        }
        _ => copy(&step.src[0], y),
    }
}

fn iota(y: &Dst, axis: usize) {
    let inner: usize = y.shape[axis + 1..].iter().product();
    let length = y.shape[axis];
    blocks(y.elements(), |start, count| {
        let mut out = [0; BLOCK];
        for (i, y) in out[..count].iter_mut().enumerate() {
            *y = ((start + i) / inner % length) as u32;
        }
        match y.dtype {
            DType::U32 => y.store_u32(start, &out[..count]),
            _ => y.store(start, &out.map(|x| x as f32)[..count]),
        }
    });
}

/// Copies a view to a whole result, converting if the stored type differs.
pub fn copy(x: &Src, y: &Dst) {
    parallel(y.elements(), 4 * GRAIN, |range| copy_range(x, range.start, y, range.start, range.len()));
}

/// Copies `count` elements in row-major order.
pub fn copy_range(x: &Src, from: usize, y: &Dst, to: usize, count: usize) {
    macro_rules! raw {
        ($ty:ty) => {{
            let mut block = [<$ty>::default(); BLOCK];
            for done in (0..count).step_by(BLOCK) {
                let block = &mut block[..BLOCK.min(count - done)];
                x.load_raw(from + done, block);
                y.store_raw(to + done, block);
            }
        }};
    }
    match x.stored {
        stored if stored != y.dtype => {
            let mut block = [0.0; BLOCK];
            for done in (0..count).step_by(BLOCK) {
                let block = &mut block[..BLOCK.min(count - done)];
                x.load(from + done, block);
                y.store(to + done, block);
            }
        }
        DType::F32 | DType::U32 => raw!(u32),
        DType::F16 | DType::Bf16 => raw!(u16),
        _ => raw!(u8),
    }
}

/// Copies a view to the block of `y` of its shape that begins at `at`.
fn copy_block(x: &Src, y: &Dst, at: &[usize]) {
    // Trailing dimensions that the block fills make one run with the first one that it does not fill.
    let mut split = x.shape.len();
    let mut run = 1;
    while split > 0 {
        split -= 1;
        run *= x.shape[split];
        if x.shape[split] != y.shape[split] {
            break;
        }
    }
    let mut strides = vec![1; y.shape.len()];
    for d in (1..y.shape.len()).rev() {
        strides[d - 1] = strides[d] * y.shape[d];
    }
    let origin: usize = at.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
    let rows = x.elements() / run;
    parallel(rows, (GRAIN / run).max(1), |range| {
        for row in range {
            let (mut rest, mut to) = (row, origin);
            for d in (0..split).rev() {
                to += rest % x.shape[d] * strides[d];
                rest /= x.shape[d];
            }
            copy_range(x, row * run, y, to, run);
        }
    });
}

fn pad(x: &Src, y: &Dst, low: &[usize], value: f64) {
    fill(y, value);
    copy_block(x, y, low);
}

fn fill(y: &Dst, value: f64) {
    match y.dtype {
        DType::U32 | DType::Bool => {
            blocks(y.elements(), |start, count| y.store_u32(start, &[value as u32; BLOCK][..count]));
        }
        _ => {
            let value = rounded(y.dtype, value);
            blocks(y.elements(), |start, count| y.store(start, &[value; BLOCK][..count]));
        }
    }
}

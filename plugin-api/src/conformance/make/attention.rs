//! Arguments for attention and its gradient.

use super::{FLOATS, Variant, numbers};
use crate::conformance::Random;
use crate::program::{Attrs, DType, Op, TensorType};
use crate::reference::{Call, Tensor, evaluate};

/// One shape and mask.
#[derive(Clone, Copy)]
struct Setting {
    label: &'static str,
    batch: usize,
    queries: usize,
    heads: usize,
    channels: usize,
    keys: usize,
    groups: usize,
    value_channels: usize,
    causal: bool,
    window: usize,
    segments: bool,
    start: [u32; 2],
    valid: [u32; 2],
}

const PLAIN: Setting = Setting {
    label: "plain ",
    batch: 2,
    queries: 5,
    heads: 2,
    channels: 8,
    keys: 5,
    groups: 2,
    value_channels: 8,
    causal: true,
    window: 0,
    segments: false,
    start: [0, 0],
    valid: [5, 5],
};

const SETTINGS: &[Setting] = &[
    PLAIN,
    Setting { label: "every key ", causal: false, ..PLAIN },
    Setting { label: "short rows ", valid: [3, 1], ..PLAIN },
    Setting { label: "grouped heads ", heads: 6, groups: 2, value_channels: 3, ..PLAIN },
    Setting { label: "one key head ", heads: 4, groups: 1, ..PLAIN },
    Setting { label: "window ", window: 2, queries: 9, keys: 9, valid: [9, 7], ..PLAIN },
    Setting { label: "window beyond ", window: 1 << 30, ..PLAIN },
    Setting { label: "segments ", segments: true, queries: 9, keys: 9, valid: [9, 8], ..PLAIN },
    Setting {
        label: "segments, window ",
        segments: true,
        window: 3,
        queries: 9,
        keys: 9,
        valid: [9, 9],
        ..PLAIN
    },
    Setting { label: "decoding ", queries: 1, keys: 17, start: [16, 4], valid: [17, 5], ..PLAIN },
    Setting { label: "a cache with room ", queries: 3, keys: 12, start: [4, 0], valid: [7, 3], ..PLAIN },
    Setting { label: "no key ", valid: [0, 5], ..PLAIN },
    Setting {
        label: "no key within the window ",
        window: 2,
        queries: 3,
        keys: 9,
        start: [7, 2],
        valid: [4, 9],
        ..PLAIN
    },
    Setting { label: "beyond the keys ", segments: true, causal: false, start: [20, 3], ..PLAIN },
    Setting {
        label: "blocks ",
        batch: 1,
        queries: 65,
        keys: 129,
        channels: 33,
        start: [64, 0],
        valid: [129, 0],
        ..PLAIN
    },
];

impl Setting {
    fn operands(&self, rng: &mut Random, dtype: DType) -> Vec<Tensor> {
        let mut floats = |shape: [usize; 4]| rng.floats(dtype, &shape, -1.5, 1.5);
        let mut operands = vec![
            floats([self.batch, self.queries, self.heads, self.channels]),
            floats([self.batch, self.keys, self.groups, self.channels]),
            floats([self.batch, self.keys, self.groups, self.value_channels]),
            numbers(&[self.batch], &self.start[..self.batch]),
            numbers(&[self.batch], &self.valid[..self.batch]),
        ];
        if self.segments {
            let of_key = |j: usize| (j / 3) as u32;
            let ids: Vec<u32> = (0..self.batch * self.keys).map(|i| of_key(i % self.keys)).collect();
            operands.push(numbers(&[self.batch, self.keys], &ids));
        }
        operands
    }

    fn attrs(&self, lse: bool) -> Attrs {
        Attrs::none()
            .float("scale", 1.0 / (self.channels as f64).sqrt())
            .bool("causal", self.causal)
            .int("window", self.window)
            .bool("segments", self.segments)
            .bool("lse", lse)
    }

    fn out(&self, dtype: DType) -> TensorType {
        TensorType::new(dtype, &[self.batch, self.queries, self.heads, self.value_channels])
    }

    fn lse(&self) -> TensorType {
        TensorType::new(DType::F32, &[self.batch, self.heads, self.queries])
    }
}

fn settings() -> impl Iterator<Item = (&'static Setting, DType, bool)> {
    let with_types = SETTINGS.iter().flat_map(|setting| FLOATS.map(|dtype| (setting, dtype)));
    with_types.flat_map(|(setting, dtype)| [false, true].map(|lse| (setting, dtype, lse)))
}

pub(super) fn attention(rng: &mut Random) -> Vec<Variant> {
    let variants = settings().map(|(setting, dtype, lse)| {
        Variant::new(setting.label, setting.operands(rng, dtype), setting.attrs(lse))
    });
    variants.collect()
}

pub(super) fn attention_grad(rng: &mut Random) -> Vec<Variant> {
    let variants = settings().map(|(setting, dtype, lse)| {
        let mut operands = setting.operands(rng, dtype);
        let attrs = setting.attrs(lse);
        let (out, lse_type) = (setting.out(dtype), setting.lse());
        let dout = rng.floats(dtype, &out.shape, -1.0, 1.0);
        let forward = lse.then(|| {
            let call =
                Call { attrs: &attrs, operands: operands.iter().collect(), results: vec![&out, &lse_type] };
            evaluate(Op::Attention, &call)
        });
        operands.push(dout);
        operands.extend(forward.into_iter().flatten().map(Tensor::rounded));
        Variant::new(setting.label, operands, attrs)
    });
    variants.collect()
}

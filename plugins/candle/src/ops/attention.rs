//! Attention and its gradient: products of a part of the heads and queries at a time, between which one kernel makes
//! probabilities of scores.

use candle_core::{DType as CandleType, Result, Tensor};
use finetune_plugin_api::program::AttentionShape;

use super::{Step, elementwise, flash};
use crate::host;
use crate::kernel::product::{Matrix, Product, between, is_widened};
use crate::kernel::{self, Numbers};

/// Bytes of the scores that are held at a time, in f32.
pub const SCORES: usize = 128 << 20;

/// Rows of so many keys at most are computed in f32 throughout, whatever the type: they cost next to nothing.
pub const SHORT: usize = 256;

/// The operands and how they are cut.
struct Cut {
    shape: AttentionShape,
    /// Queries of a part: all groups' with one query head each.
    part: usize,
}

impl Cut {
    fn new(step: &Step) -> Cut {
        let shape = step.attention();
        Cut { shape, part: (SCORES / 4 / (shape.groups * shape.keys)).clamp(1, shape.queries) }
    }

    /// The parts: row of the batch, number of the query head in its group, first query, queries.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let each = self.shape.heads_per_group();
        let (AttentionShape { batch, queries, .. }, part) = (self.shape, self.part);
        (0..batch).flat_map(move |row| {
            (0..each).flat_map(move |head| {
                let part_from = move |first| Part { row, head, first, queries: part.min(queries - first) };
                (0..queries).step_by(part).map(part_from)
            })
        })
    }

    /// The part's queries in a tensor [B, T, H, width]: a matrix for each group.
    fn of_queries<'a>(&self, x: &'a Tensor, part: &Part, width: usize) -> Matrix<'a> {
        let each = self.shape.heads_per_group();
        let first = ((part.row * self.shape.queries + part.first) * self.shape.heads + part.head) * width;
        Matrix::rows(x, self.shape.heads * width).from(first).step(each * width)
    }

    /// All keys of the part's row in a tensor [B, S, G, width]: a matrix for each group.
    fn of_keys<'a>(&self, x: &'a Tensor, part: &Part, width: usize) -> Matrix<'a> {
        let first = part.row * self.shape.keys * self.shape.groups * width;
        Matrix::rows(x, self.shape.groups * width).from(first).step(width)
    }

    /// Scores of a part: f32[groups, queries, keys], or what has replaced them in a row's beginning.
    fn scores<'a>(&self, x: &'a Tensor, part: &Part, dtype: CandleType) -> Matrix<'a> {
        let row = self.pitch(dtype);
        Matrix::rows(x, row).step(part.queries * row).of(dtype)
    }

    /// Elements from row to row of what replaces scores.
    fn pitch(&self, dtype: CandleType) -> usize {
        self.shape.keys * 4 / dtype.size_in_bytes()
    }

    /// The numbers that the kernels take.
    fn numbers(&self, part: &Part, dtype: CandleType, out_channels: usize) -> Numbers {
        let each = self.shape.heads_per_group();
        let whole = [
            self.shape.groups,
            part.queries,
            self.shape.keys,
            self.pitch(dtype),
            part.first,
            usize::from(self.shape.causal),
            self.shape.window,
            usize::from(self.shape.segments),
            part.row,
            self.shape.queries,
            each,
            part.head,
            self.shape.heads,
            out_channels,
        ];
        Numbers::new(&whole, &[self.shape.scale])
    }

    fn launch(&self, name: &str, tensors: &[&Tensor], numbers: Numbers, part: &Part) -> Result<()> {
        let threads = self.shape.keys.div_ceil(4).next_power_of_two().clamp(32, kernel::THREADS);
        kernel::launch(name, tensors, numbers, self.shape.groups * part.queries, threads)
    }
}

struct Part {
    row: usize,
    head: usize,
    first: usize,
    queries: usize,
}

/// start, valid and segments; valid stands for the segments where there are none.
pub fn rows(step: &Step) -> Result<[Tensor; 3]> {
    let segments = if step.attrs.get_bool("segments") { 5 } else { 4 };
    Ok([step.flat(3)?, step.flat(4)?, step.flat(segments)?])
}

/// An operand as it is computed with.
fn operand(step: &Step, number: usize) -> Result<Tensor> {
    let is_short = is_widened(step.operands[0].dtype()) && step.types[1].shape[1] <= SHORT;
    let x = if is_short { step.wide(number)? } else { step.operands[number].clone() };
    super::flat(&x)
}

pub fn forward(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::attention::forward(step);
    }
    if flash::is_for(step) {
        return flash::forward(step);
    }
    let cut = Cut::new(step);
    let [q, k, v] = [operand(step, 0)?, operand(step, 1)?, operand(step, 2)?];
    let [start, valid, segments] = rows(step)?;
    let (dtype, scale) = (q.dtype(), cut.shape.scale);
    let out = kernel::empty(&step.results[0].shape, dtype, step.placed)?;
    let lse = kernel::empty(&cut.shape.lse().shape, CandleType::F32, step.placed)?;
    let size = [cut.shape.groups, cut.part, cut.shape.keys];
    let memory = kernel::empty(&size, CandleType::F32, step.placed)?;
    let held = between(dtype);
    let name = format!("attend_{}", kernel::suffix(held)?);
    let AttentionShape { channels, value_channels, groups: count, keys, .. } = cut.shape;
    for part in cut.parts() {
        let scores = cut.scores(&memory, &part, CandleType::F32);
        let size = [part.queries, keys, channels];
        let (a, b) = (cut.of_queries(&q, &part, channels), cut.of_keys(&k, &part, channels).transposed());
        Product { a, b, c: scores, size, count, alpha: scale, beta: 0.0 }.run()?;
        let tensors = [&memory, &start, &valid, &segments, &lse, &memory];
        cut.launch(&name, &tensors, cut.numbers(&part, held, 0), &part)?;
        let size = [part.queries, value_channels, keys];
        let (a, b) = (cut.scores(&memory, &part, held), cut.of_keys(&v, &part, value_channels));
        let c = cut.of_queries(&out, &part, value_channels);
        Product { a, b, c, size, count, alpha: 1.0, beta: 0.0 }.run()?;
    }
    let lse = step.attrs.get_bool("lse").then_some(lse);
    let out = elementwise::cast(&out, step.results[0].dtype)?;
    Ok([Some(out)].into_iter().chain(lse.map(Some)).collect())
}

pub fn grad(step: &Step) -> Result<Vec<Option<Tensor>>> {
    if step.is_cpu() {
        return host::attention::grad(step);
    }
    if flash::is_for(step) && step.attrs.get_bool("lse") {
        return flash::grad(step);
    }
    let cut = Cut::new(step);
    let [q, k, v] = [operand(step, 0)?, operand(step, 1)?, operand(step, 2)?];
    let first = cut.shape.dout();
    let dout = operand(step, first)?;
    // What the forward op gave, if it is known.
    let (out, out_channels) = match step.attrs.get_bool("lse") {
        true => (operand(step, first + 1)?, cut.shape.value_channels),
        false => (dout.clone(), 0),
    };
    let [start, valid, segments] = rows(step)?;
    let (dtype, scale) = (q.dtype(), cut.shape.scale);
    let dq = kernel::empty(&step.results[0].shape, dtype, step.placed)?;
    // Summed over query heads in f32.
    let sum = |i: usize| kernel::empty(&step.results[i].shape, CandleType::F32, step.placed);
    let (dk, dv) = (sum(1)?, sum(2)?);
    let size = [cut.shape.groups, cut.part, cut.shape.keys];
    let memory = kernel::empty(&size, CandleType::F32, step.placed)?;
    let slopes = kernel::empty(&size, CandleType::F32, step.placed)?;
    let held = between(dtype);
    let name = format!("attend_grad_{}_{}", kernel::suffix(dtype)?, kernel::suffix(held)?);
    let AttentionShape { channels, value_channels, groups: count, keys, .. } = cut.shape;
    for part in cut.parts() {
        let tensors = [&memory, &slopes, &start, &valid, &segments, &dout, &out, &memory, &slopes];
        let (q, dout) = (cut.of_queries(&q, &part, channels), cut.of_queries(&dout, &part, value_channels));
        let (k, v) = (cut.of_keys(&k, &part, channels), cut.of_keys(&v, &part, value_channels));
        let product = |a, b, c, size, alpha, beta| Product { a, b, c, size, count, alpha, beta }.run();
        let wide = |x| cut.scores(x, &part, CandleType::F32);
        product(q, k.transposed(), wide(&memory), [part.queries, keys, channels], scale, 0.0)?;
        product(dout, v.transposed(), wide(&slopes), [part.queries, keys, value_channels], 1.0, 0.0)?;
        cut.launch(&name, &tensors, cut.numbers(&part, held, out_channels), &part)?;
        let (p, ds) = (cut.scores(&memory, &part, held), cut.scores(&slopes, &part, held));
        product(ds, k, cut.of_queries(&dq, &part, channels), [part.queries, channels, keys], 1.0, 0.0)?;
        // The first part of a row of the batch begins its sums.
        let beta = if part.head == 0 && part.first == 0 { 0.0 } else { 1.0 };
        let (to_k, to_v) = (cut.of_keys(&dk, &part, channels), cut.of_keys(&dv, &part, value_channels));
        product(ds.transposed(), q, to_k, [keys, channels, part.queries], 1.0, beta)?;
        product(p.transposed(), dout, to_v, [keys, value_channels, part.queries], 1.0, beta)?;
    }
    let narrow = |i: usize, x: &Tensor| elementwise::cast(x, step.results[i].dtype);
    Ok(vec![Some(narrow(0, &dq)?), Some(narrow(1, &dk)?), Some(narrow(2, &dv)?)])
}

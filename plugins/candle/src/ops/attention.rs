//! Attention and its gradient: products of a part of the heads and queries at a time, between which one kernel makes
//! probabilities of scores.

use candle_core::{DType as CandleType, Result, Tensor};

use super::{Step, elementwise, flash};
use crate::host;
use crate::kernel::product::{Matrix, Product, between, is_widened};
use crate::kernel::{self, Numbers};

/// Bytes of the scores that are held at a time, in f32.
const SCORES: usize = 128 << 20;

/// Rows of so many keys at most are computed in f32 throughout, whatever the type: they cost next to nothing.
pub const SHORT: usize = 256;

/// Sizes of the operands and how they are cut.
struct Shape {
    batch: usize,
    queries: usize,
    heads: usize,
    channels: usize,
    keys: usize,
    groups: usize,
    value_channels: usize,
    /// Queries of a part: all groups' with one query head each.
    part: usize,
}

impl Shape {
    fn new(step: &Step) -> Result<Shape> {
        let [[batch, queries, heads, channels], [_, keys, groups, _], [_, _, _, value_channels]] = [0, 1, 2]
            .map(|i| {
                let mut dims = [1; 4];
                dims.iter_mut().zip(&step.types[i].shape).for_each(|(dim, &size)| *dim = size);
                dims
            });
        let part = (SCORES / 4 / (groups * keys)).clamp(1, queries);
        Ok(Shape { batch, queries, heads, channels, keys, groups, value_channels, part })
    }

    /// The parts: row of the batch, number of the query head in its group, first query, queries.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let each = self.heads / self.groups;
        let (batch, queries, part) = (self.batch, self.queries, self.part);
        (0..batch).flat_map(move |row| {
            (0..each).flat_map(move |head| {
                let part_from = move |first| Part { row, head, first, queries: part.min(queries - first) };
                (0..queries).step_by(part).map(part_from)
            })
        })
    }

    /// The part's queries in a tensor [B, T, H, width]: a matrix for each group.
    fn of_queries<'a>(&self, x: &'a Tensor, part: &Part, width: usize) -> Matrix<'a> {
        let each = self.heads / self.groups;
        let first = ((part.row * self.queries + part.first) * self.heads + part.head) * width;
        Matrix::rows(x, self.heads * width).from(first).step(each * width)
    }

    /// All keys of the part's row in a tensor [B, S, G, width]: a matrix for each group.
    fn of_keys<'a>(&self, x: &'a Tensor, part: &Part, width: usize) -> Matrix<'a> {
        let first = part.row * self.keys * self.groups * width;
        Matrix::rows(x, self.groups * width).from(first).step(width)
    }

    /// Scores of a part: f32[groups, queries, keys], or what has replaced them in a row's beginning.
    fn scores<'a>(&self, x: &'a Tensor, part: &Part, dtype: CandleType) -> Matrix<'a> {
        let row = self.pitch(dtype);
        Matrix::rows(x, row).step(part.queries * row).of(dtype)
    }

    /// Elements from row to row of what replaces scores.
    fn pitch(&self, dtype: CandleType) -> usize {
        self.keys * 4 / dtype.size_in_bytes()
    }

    /// The numbers that the kernels take.
    fn numbers(&self, step: &Step, part: &Part, dtype: CandleType, out_channels: usize) -> Numbers {
        let flag = |name: &str| usize::from(step.attrs.get_bool(name));
        let each = self.heads / self.groups;
        let whole = [
            self.groups,
            part.queries,
            self.keys,
            self.pitch(dtype),
            part.first,
            flag("causal"),
            step.attrs.get_int("window"),
            flag("segments"),
            part.row,
            self.queries,
            each,
            part.head,
            self.heads,
            out_channels,
        ];
        Numbers::new(&whole, &[step.attrs.get_float("scale")])
    }

    fn launch(&self, name: &str, tensors: &[&Tensor], numbers: Numbers, part: &Part) -> Result<()> {
        let threads = self.keys.div_ceil(4).next_power_of_two().clamp(32, kernel::THREADS);
        kernel::launch(name, tensors, numbers, self.groups * part.queries, threads)
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
    let shape = Shape::new(step)?;
    let [q, k, v] = [operand(step, 0)?, operand(step, 1)?, operand(step, 2)?];
    let [start, valid, segments] = rows(step)?;
    let (dtype, scale) = (q.dtype(), step.attrs.get_float("scale"));
    let out = kernel::empty(&step.results[0].shape, dtype, step.placed)?;
    let lse = kernel::empty(&[shape.batch, shape.heads, shape.queries], CandleType::F32, step.placed)?;
    let size = [shape.groups, shape.part, shape.keys];
    let memory = kernel::empty(&size, CandleType::F32, step.placed)?;
    let held = between(dtype);
    let name = format!("attend_{}", kernel::suffix(held)?);
    let Shape { channels, value_channels, groups: count, keys, .. } = shape;
    for part in shape.parts() {
        let scores = shape.scores(&memory, &part, CandleType::F32);
        let size = [part.queries, keys, channels];
        let (a, b) = (shape.of_queries(&q, &part, channels), shape.of_keys(&k, &part, channels).transposed());
        Product { a, b, c: scores, size, count, alpha: scale, beta: 0.0 }.run()?;
        let tensors = [&memory, &start, &valid, &segments, &lse, &memory];
        shape.launch(&name, &tensors, shape.numbers(step, &part, held, 0), &part)?;
        let size = [part.queries, value_channels, keys];
        let (a, b) = (shape.scores(&memory, &part, held), shape.of_keys(&v, &part, value_channels));
        let c = shape.of_queries(&out, &part, value_channels);
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
    let shape = Shape::new(step)?;
    let [q, k, v] = [operand(step, 0)?, operand(step, 1)?, operand(step, 2)?];
    let first = if step.attrs.get_bool("segments") { 6 } else { 5 };
    let dout = operand(step, first)?;
    // What the forward op gave, if it is known.
    let (out, out_channels) = match step.attrs.get_bool("lse") {
        true => (operand(step, first + 1)?, shape.value_channels),
        false => (dout.clone(), 0),
    };
    let [start, valid, segments] = rows(step)?;
    let (dtype, scale) = (q.dtype(), step.attrs.get_float("scale"));
    let dq = kernel::empty(&step.results[0].shape, dtype, step.placed)?;
    // Summed over query heads in f32.
    let sum = |i: usize| kernel::empty(&step.results[i].shape, CandleType::F32, step.placed);
    let (dk, dv) = (sum(1)?, sum(2)?);
    let size = [shape.groups, shape.part, shape.keys];
    let memory = kernel::empty(&size, CandleType::F32, step.placed)?;
    let slopes = kernel::empty(&size, CandleType::F32, step.placed)?;
    let held = between(dtype);
    let name = format!("attend_grad_{}_{}", kernel::suffix(dtype)?, kernel::suffix(held)?);
    let Shape { channels, value_channels, groups: count, keys, .. } = shape;
    for part in shape.parts() {
        let tensors = [&memory, &slopes, &start, &valid, &segments, &dout, &out, &memory, &slopes];
        let (q, dout) =
            (shape.of_queries(&q, &part, channels), shape.of_queries(&dout, &part, value_channels));
        let (k, v) = (shape.of_keys(&k, &part, channels), shape.of_keys(&v, &part, value_channels));
        let product = |a, b, c, size, alpha, beta| Product { a, b, c, size, count, alpha, beta }.run();
        let wide = |x| shape.scores(x, &part, CandleType::F32);
        product(q, k.transposed(), wide(&memory), [part.queries, keys, channels], scale, 0.0)?;
        product(dout, v.transposed(), wide(&slopes), [part.queries, keys, value_channels], 1.0, 0.0)?;
        shape.launch(&name, &tensors, shape.numbers(step, &part, held, out_channels), &part)?;
        let (p, ds) = (shape.scores(&memory, &part, held), shape.scores(&slopes, &part, held));
        product(ds, k, shape.of_queries(&dq, &part, channels), [part.queries, channels, keys], 1.0, 0.0)?;
        // The first part of a row of the batch begins its sums.
        let beta = if part.head == 0 && part.first == 0 { 0.0 } else { 1.0 };
        let (to_k, to_v) = (shape.of_keys(&dk, &part, channels), shape.of_keys(&dv, &part, value_channels));
        product(ds.transposed(), q, to_k, [keys, channels, part.queries], 1.0, beta)?;
        product(p.transposed(), dout, to_v, [keys, value_channels, part.queries], 1.0, beta)?;
    }
    let narrow = |i: usize, x: &Tensor| elementwise::cast(x, step.results[i].dtype);
    Ok(vec![Some(narrow(0, &dq)?), Some(narrow(1, &dk)?), Some(narrow(2, &dv)?)])
}

//! What every architecture writes its forward pass with: weights, linear layers and the loss, with precision
//! and adapters taken care of.

use std::collections::{BTreeMap, BTreeSet};

use finetune_plugin_api::program::{Attrs, Builder, DType, Op, TensorType, ValueId};

use super::{Architecture, ModelError, cache};
use crate::adapters::{Lora, unpack};
use crate::precision::Precision;

/// Names of the inputs of a program that [`loss_program`] begins; B rows of T positions.
pub mod input {
    /// Token ids, `u32[B, T]`.
    pub const TOKENS: &str = "tokens";
    /// The token that each position is to give, `u32[B, T]`.
    pub const TARGETS: &str = "targets";
    /// What each target counts, 0 for padding, `f32[B, T]`.
    pub const WEIGHTS: &str = "weights";
    /// Positions within the sequence, `u32[B, T]`.
    pub const POSITIONS: &str = "positions";
    /// How many positions of a row are real, `u32[B]`.
    pub const VALID: &str = "valid";
    /// With a cache: where the first position of a row stands in it, `u32[B]`.
    pub const START: &str = "start";
    /// With a cache: which of the B T positions the logits are asked of, `u32[B]`.
    pub const LAST: &str = "last";
    /// With dropout: the example in each row, `u32[B]`.
    pub const EXAMPLE: &str = "example";
    /// With dropout: the run's seed, low word first, `u32[2]`.
    pub const SEED: &str = "seed";
    /// With dropout: the step, `u32[]`.
    pub const STEP: &str = "step";
}

/// What a forward program is built for.
pub struct ForwardOptions<'a> {
    /// Rows of a batch.
    pub rows: usize,
    /// Positions in a row.
    pub length: usize,
    /// The precision.
    pub precision: Precision,
    /// The adapters, if there are any; they are trained and everything else is frozen.
    pub lora: Option<&'a Lora>,
    /// Whether the model's own tensors are trained.
    pub full: bool,
    /// Whether dropout acts, as it does in training only.
    pub dropout: bool,
    /// The type in which a tensor lies in the model's files.
    pub stored: &'a dyn Fn(&str) -> DType,
}

/// The run-time inputs of a forward pass.
pub struct BatchInputs {
    /// Token ids, `u32[B, T]`.
    pub tokens: ValueId,
    /// Positions within the sequence, `u32[B, T]`.
    pub positions: ValueId,
    /// Where the first query of a row stands among its keys, `u32[B]`.
    pub start: ValueId,
    /// How many positions of a row are real, those in the cache included, `u32[B]`.
    pub valid: ValueId,
    /// Rows.
    pub rows: usize,
    /// Positions in a row.
    pub length: usize,
    /// Where keys and values of earlier positions are kept, if they are.
    pub cache: Option<CacheInputs>,
}

/// A cache of keys and values as a forward pass finds it.
#[derive(Clone, Copy, Debug)]
pub struct CacheInputs {
    /// Positions that it has room for.
    pub capacity: usize,
    /// Where the new keys and values go, `u32[]`: the same for every row.
    pub at: ValueId,
}

impl BatchInputs {
    /// B times T.
    pub fn count(&self) -> usize {
        self.rows * self.length
    }
}

/// A forward pass being written.
pub struct Forward<'a> {
    /// The program being built.
    pub b: Builder,
    /// What it is built for.
    pub options: &'a ForwardOptions<'a>,
    shapes: BTreeMap<String, Vec<usize>>,
    computed: BTreeSet<String>,
    arguments: BTreeMap<String, ValueId>,
    trained: Vec<(String, ValueId)>,
    /// Packs of adapters in the type of products.
    packs: BTreeMap<usize, ValueId>,
    linears: BTreeMap<String, (usize, super::LinearSpec)>,
    dropout: Option<DropoutKeys>,
    cached: usize,
}

/// What random bits are drawn by: seed, step, and example and position of each of the B T rows.
#[derive(Clone, Copy)]
struct DropoutKeys {
    seed: ValueId,
    step: ValueId,
    example: ValueId,
    position: ValueId,
}

/// A program that computes a batch's summed loss, still open for gradients.
pub struct LossProgram {
    /// The program so far.
    pub builder: Builder,
    /// The sum of the target tokens' losses, f32[].
    pub loss: ValueId,
    /// Trained tensors by name: each an f32 state argument, or out of a pack of them and in the type of products.
    pub trained: Vec<(String, ValueId)>,
}

/// Builds the program that gives the summed loss of one batch.
///
/// Its inputs are those of [`input`].
pub fn loss_program(
    model: &dyn Architecture,
    options: &ForwardOptions<'_>,
) -> Result<LossProgram, ModelError> {
    let mut f = Forward::new(model, options);
    let (rows, length) = (options.rows, options.length);
    let grid = TensorType::new(DType::U32, &[rows, length]);
    let tokens = f.b.input(input::TOKENS, grid.clone());
    let targets = f.b.input(input::TARGETS, grid.clone());
    let weights = f.b.input(input::WEIGHTS, grid.with_dtype(DType::F32));
    let positions = f.b.input(input::POSITIONS, grid);
    let valid = f.b.input(input::VALID, TensorType::new(DType::U32, &[rows]));
    let start = f.b.full(0.0, &TensorType::new(DType::U32, &[rows]));
    let batch = BatchInputs { tokens, positions, start, valid, rows, length, cache: None };
    if options.dropout && options.lora.is_some_and(|lora| lora.dropout > 0.0) {
        f.dropout = Some(f.dropout_keys(&batch));
    }
    let hidden = model.hidden(&mut f, &batch);
    f.b.set_place("loss");
    let targets = f.b.reshape(targets, &[batch.count()]);
    let weights = f.b.reshape(weights, &[batch.count()]);
    let loss = f.loss(model, hidden, targets, weights);
    match f.b.error() {
        Some(error) => Err(error.clone().into()),
        None => Ok(LossProgram { builder: f.b, loss, trained: f.trained }),
    }
}

impl<'a> Forward<'a> {
    pub(super) fn new(model: &dyn Architecture, options: &'a ForwardOptions<'a>) -> Forward<'a> {
        let mut shapes: BTreeMap<_, _> =
            model.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        let computed = model.computed();
        shapes.extend(computed.iter().map(|(name, data)| (name.clone(), vec![data.len()])));
        let linears = model.linears().into_iter().enumerate();
        Forward {
            b: Builder::new(),
            options,
            shapes,
            computed: computed.into_iter().map(|(name, _)| name).collect(),
            arguments: BTreeMap::new(),
            trained: Vec::new(),
            packs: BTreeMap::new(),
            linears: linears.map(|(site, linear)| (linear.path.clone(), (site, linear))).collect(),
            dropout: None,
            cached: 0,
        }
    }

    fn dropout_keys(&mut self, batch: &BatchInputs) -> DropoutKeys {
        let seed = self.b.input(input::SEED, TensorType::new(DType::U32, &[2]));
        let step = self.b.input(input::STEP, TensorType::scalar(DType::U32));
        let example = self.b.input(input::EXAMPLE, TensorType::new(DType::U32, &[batch.rows]));
        let example = self.b.reshape(example, &[batch.rows, 1]);
        let example = self.b.broadcast(example, &[batch.rows, batch.length]);
        let example = self.b.reshape(example, &[batch.count()]);
        let position = self.b.iota(DType::U32, &[batch.rows, batch.length], 1);
        let position = self.b.reshape(position, &[batch.count()]);
        DropoutKeys { seed, step, example, position }
    }

    /// A tensor of the model as it is held: f32 where it is trained, else in the type of the run's frozen
    /// weights. The first use declares it.
    pub fn tensor(&mut self, name: &str) -> ValueId {
        if let Some(&value) = self.arguments.get(name) {
            return value;
        }
        let Some(shape) = self.shapes.get(name).cloned() else {
            self.b.fail("param", format!("the model lists no tensor {name:?}"));
            return self.b.constant(0.0, DType::F32);
        };
        let value = if self.options.full && !self.computed.contains(name) {
            let value = self.b.state(name, TensorType::new(DType::F32, &shape));
            self.trained.push((name.into(), value));
            value
        } else {
            let dtype = self.frozen_type(name);
            self.b.param(name, TensorType::new(dtype, &shape))
        };
        self.arguments.insert(name.into(), value);
        value
    }

    /// Computed buffers are f32 always: angles need it.
    fn frozen_type(&self, name: &str) -> DType {
        match self.computed.contains(name) {
            true => DType::F32,
            false => self.options.precision.frozen((self.options.stored)(name)),
        }
    }

    /// A tensor of the model in the type of products.
    pub fn operand(&mut self, name: &str) -> ValueId {
        let tensor = self.tensor(name);
        self.b.cast(tensor, self.options.precision.compute())
    }

    /// Rows of an embedding table for ids u32[..]: [.., C], in the type of activations.
    pub fn embedding(&mut self, name: &str, ids: ValueId) -> ValueId {
        let table = self.tensor(name);
        let rows = self.b.apply(Op::Gather, &[table, ids], Attrs::none());
        self.b.cast(rows, self.options.precision.compute())
    }

    /// The linear layer at `path` with its adapter, applied to x [N, inputs]: [N, outputs].
    pub fn linear(&mut self, path: &str, x: ValueId, bias: bool) -> ValueId {
        self.b.set_place(path);
        let Some((site, spec)) = self.linears.get(path).cloned() else {
            self.b.fail("matmul", format!("the model lists no linear layer {path:?}"));
            return x;
        };
        let weight = self.operand(&format!("{path}.weight"));
        let mut y = self.b.matmul(x, weight, false, !spec.fan_in_fan_out);
        if bias {
            let bias = self.operand(&format!("{path}.bias"));
            y = self.b.add_broadcast(y, bias);
        }
        match self.options.lora.and_then(|lora| lora.module(path)) {
            Some(module) => {
                let change = self.lora_change(module, site, x);
                self.b.add(y, change)
            }
            None => y,
        }
    }

    /// scale * B A dropout(x) (Hu et al. 2021).
    fn lora_change(&mut self, module: &crate::adapters::LoraModule, site: usize, x: ValueId) -> ValueId {
        let x = self.dropped(x, site);
        let [a, b] = module.tensors().map(|(name, shape)| self.adapter_tensor(name, &shape));
        let low = self.b.matmul(x, a, false, true);
        // A packed B is scaled with its pack; else it is done where it is narrow.
        let is_scaled =
            self.options.lora.is_some_and(|lora| lora.packing().place(&module.b_name()).is_some());
        let low = if is_scaled { low } else { self.b.scale(low, module.scale) };
        self.b.matmul(low, b, false, true)
    }

    /// A tensor of the adapters in the type of products.
    fn adapter_tensor(&mut self, name: String, shape: &[usize]) -> ValueId {
        let compute = self.options.precision.compute();
        let packing = self.options.lora.map(Lora::packing);
        let Some((packing, place)) = packing.and_then(|packing| Some((packing, packing.place(&name)?)))
        else {
            let state = self.b.state(&name, TensorType::new(DType::F32, shape));
            self.trained.push((name, state));
            return self.b.cast(state, compute);
        };
        let packed = *self.packs.entry(place.pack).or_insert_with(|| {
            let pack = &packing.packs()[place.pack];
            let state = self.b.state(&pack.name, TensorType::new(DType::F32, &[pack.elements]));
            let scaled = self.b.scale(state, pack.scale);
            self.b.cast(scaled, compute)
        });
        let tensor = unpack(&mut self.b, packed, place);
        self.trained.push((name, tensor));
        tensor
    }

    fn dropped(&mut self, x: ValueId, site: usize) -> ValueId {
        let (Some(keys), Some(lora)) = (self.dropout, self.options.lora) else { return x };
        let attrs = Attrs::none().float("rate", lora.dropout).int("site", site);
        self.b.apply(Op::Dropout, &[x, keys.seed, keys.step, keys.example, keys.position], attrs)
    }

    fn loss(
        &mut self,
        model: &dyn Architecture,
        hidden: ValueId,
        targets: ValueId,
        weights: ValueId,
    ) -> ValueId {
        let head = model.head();
        let adapted = self.options.lora.is_some_and(|lora| lora.module(&head.path).is_some());
        let results = match adapted {
            // The adapter's product is no row of the head's weight: the logits are needed.
            true => {
                let logits = self.head_logits(&head, hidden);
                self.b.push(Op::CrossEntropy, &[logits, targets, weights], Attrs::none())
            }
            false => {
                let weight = self.operand(&head.weight);
                self.b.push(Op::LinearCrossEntropy, &[hidden, weight, targets, weights], Attrs::none())
            }
        };
        results[0]
    }

    /// The keys and values that the next attention of the model sees: its own, [B, T, G, D], written into its cache,
    /// or just these if there is none.
    pub(super) fn seen(&mut self, batch: &BatchInputs, own: [ValueId; 2]) -> [ValueId; 2] {
        let Some(cache) = batch.cache else { return own };
        let number = self.cached;
        self.cached += 1;
        let mut part = 0;
        own.map(|new| {
            let name = cache::name(cache.capacity, number, part);
            part += 1;
            let [rows, _, groups, channels] = self.b.dims(new);
            let ty = TensorType::new(self.b.dtype(new), &[rows, cache.capacity, groups, channels]);
            let old = self.b.state(&name, ty);
            let all = self.b.apply(Op::UpdateSlice, &[old, new, cache.at], Attrs::none().int("axis", 1));
            self.b.update(old, all);
            all
        })
    }

    /// The logits of hidden states [N, channels]: [N, vocabulary].
    pub(super) fn head_logits(&mut self, head: &super::Head, hidden: ValueId) -> ValueId {
        let weight = self.operand(&head.weight);
        let logits = self.b.matmul(hidden, weight, false, true);
        let found = self.options.lora.and_then(|lora| lora.module(&head.path));
        let site = self.linears.get(&head.path).map(|(site, _)| *site);
        match (found, site) {
            (Some(module), Some(site)) => {
                let change = self.lora_change(module, site, hidden);
                self.b.add(logits, change)
            }
            _ => logits,
        }
    }
}

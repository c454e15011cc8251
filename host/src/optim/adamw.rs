//! AdamW over all trained tensors, with clipping by the global norm.

use finetune_plugin_api::program::{
    Attrs, Builder, DType, Op, Program, ProgramError, Role, TensorType, ValueId,
};

use crate::adapters::{Gathering, Packing};
use crate::autodiff::{AutodiffError, Options, gradients_as_ready};

/// Names of the state that a step's programs share. A trained tensor's own state has its plain name; `#`
/// stands in no tensor's name, so none can be taken for another.
pub mod state {
    /// The sum of the loss over the micro-batches of a step, f32[].
    pub const LOSS_SUM: &str = "#loss_sum";

    /// The sum of a tensor's gradients over the micro-batches of a step.
    pub fn gradient(name: &str) -> String {
        format!("{name}#grad")
    }

    /// The first moment of a tensor.
    pub fn first_moment(name: &str) -> String {
        format!("{name}#m")
    }

    /// The second moment of a tensor.
    pub fn second_moment(name: &str) -> String {
        format!("{name}#v")
    }

    /// All that belongs to a trained tensor besides itself.
    pub fn of(name: &str) -> [String; 3] {
        [gradient(name), first_moment(name), second_moment(name)]
    }

    /// The name of a trained tensor and what is behind it in the name of its state, `#` included.
    pub fn split(name: &str) -> (&str, &str) {
        name.rfind('#').map_or((name, ""), |at| name.split_at(at))
    }
}

/// Names of the apply program's inputs, all f32[].
pub mod input {
    /// One over the number of target tokens of the step.
    pub const INVERSE_TOKENS: &str = "#inverse_tokens";
    /// The learning rate.
    pub const LR: &str = "#lr";
    /// 1 - beta1^t at optimizer step t.
    pub const CORRECTION1: &str = "#correction1";
    /// 1 - beta2^t at optimizer step t.
    pub const CORRECTION2: &str = "#correction2";
}

/// Names of the apply program's outputs, all f32[].
pub mod output {
    /// The loss of the step: the sum over its target tokens divided by their number.
    pub const LOSS: &str = "loss";
    /// The norm of all gradients of that loss together, before clipping.
    pub const GRAD_NORM: &str = "grad_norm";
}

/// What keeps the divisor of the clip coefficient from 0, as in torch's `clip_grad_norm_`.
const CLIP_EPS: f64 = 1e-6;

/// A tensor that is trained. It and all its state are f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// Its name among the programs' state.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The optimizer's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How much of the first moment a step keeps.
    pub beta1: f64,
    /// How much of the second moment a step keeps.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, of every trained tensor.
    pub weight_decay: f64,
    /// The largest global norm of the gradients; `None` does not clip.
    pub clip: Option<f64>,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, clip: None }
    }
}

impl AdamW {
    /// The inputs `correction1` and `correction2` of optimizer step `step`, counted from 1. Computed in f64:
    /// in f32, 1 - 0.999 is wrong from the fifth digit on.
    pub fn corrections(&self, step: u64) -> (f32, f32) {
        let correction = |beta: f64| (1.0 - beta.powf(step as f64)) as f32;
        (correction(self.beta1), correction(self.beta2))
    }
}

/// Ends an accumulate program: adds the loss sum f32[] of a micro-batch and its gradient with respect to each
/// named tensor to the state that [`apply_program`] reads and resets. Each gradient is added as soon as it is
/// there, so that they are never all in memory beside their sums; those of packed tensors when their pack is complete.
pub fn accumulate(
    b: &mut Builder,
    loss_sum: ValueId,
    trained: &[(String, ValueId)],
    packing: &Packing,
    options: Options,
) -> Result<(), AutodiffError> {
    let mut gathering = Gathering::new(packing);
    let wrt: Vec<ValueId> = trained.iter().map(|(_, value)| *value).collect();
    gradients_as_ready(b, loss_sum, &wrt, options, &mut |b, i, gradient| {
        let name = &trained[i].0;
        match packing.place(name).map(|place| gathering.put(b, place, gradient)) {
            None => add_to(b, &state::gradient(name), gradient),
            Some(None) => {}
            Some(Some((pack, gradients))) => {
                // The factor on what the model reads is one on its gradient.
                let gradients = b.cast(gradients, DType::F32);
                let gradients = b.scale(gradients, pack.scale);
                add_to(b, &state::gradient(&pack.name), gradients);
            }
        }
    })?;
    add_to(b, state::LOSS_SUM, loss_sum);
    b.error().map_or(Ok(()), |error| Err(error.clone().into()))
}

fn add_to(b: &mut Builder, name: &str, value: ValueId) {
    let ty = b.ty(value).with_dtype(DType::F32);
    let value = b.cast(value, DType::F32);
    let before = b.arg(Role::State, name, ty);
    let sum = b.add(before, value);
    b.update(before, sum);
}

/// The state of one trained tensor in the apply program.
struct Slots {
    param: ValueId,
    m: ValueId,
    v: ValueId,
    gradient: ValueId,
}

/// The apply program: divides the summed gradients by the number of target tokens, clips them by their global
/// norm, updates every trained tensor, and sets gradients and loss sum to zero for the next step.
///
/// Its arguments are the [`input`]s; the state of each trained tensor, one after another: itself, first and
/// second moment, gradient; and the loss sum. Its outputs are the [`output`]s.
pub fn apply_program(trainables: &[Trainable], adamw: &AdamW) -> Result<Program, ProgramError> {
    let mut builder = Builder::new();
    let b = &mut builder;
    let [inverse_tokens, lr, correction1, correction2] =
        [input::INVERSE_TOKENS, input::LR, input::CORRECTION1, input::CORRECTION2]
            .map(|name| b.input(name, TensorType::scalar(DType::F32)));
    let slots: Vec<Slots> = trainables.iter().map(|trainable| declare(b, trainable)).collect();
    let loss_sum = b.state(state::LOSS_SUM, TensorType::scalar(DType::F32));

    let norm = global_norm(b, &slots, inverse_tokens);
    let scale = match adamw.clip {
        None => inverse_tokens,
        Some(clip) => {
            let coefficient = clip_coefficient(b, norm, clip);
            b.mul(inverse_tokens, coefficient)
        }
    };
    let attrs = Attrs::none().float("beta1", adamw.beta1).float("beta2", adamw.beta2);
    let attrs = attrs.float("eps", adamw.eps).float("weight_decay", adamw.weight_decay);
    for (slots, trainable) in slots.iter().zip(trainables) {
        b.set_place(trainable.name.as_str());
        let Slots { param, m, v, gradient } = *slots;
        let operands = [param, m, v, gradient, scale, lr, correction1, correction2];
        let results = b.push(Op::AdamW, &operands, attrs.clone());
        for (state, value) in [param, m, v].into_iter().zip(results) {
            b.update(state, value);
        }
        reset(b, gradient);
    }
    let loss = b.mul(loss_sum, inverse_tokens);
    reset(b, loss_sum);
    b.output(output::LOSS, loss);
    b.output(output::GRAD_NORM, norm);
    builder.finish()
}

fn declare(b: &mut Builder, trainable: &Trainable) -> Slots {
    let ty = TensorType::new(DType::F32, &trainable.shape);
    let name = &trainable.name;
    Slots {
        param: b.state(name, ty.clone()),
        m: b.state(&state::first_moment(name), ty.clone()),
        v: b.state(&state::second_moment(name), ty.clone()),
        gradient: b.state(&state::gradient(name), ty),
    }
}

/// The norm of all gradients together, each divided by the number of tokens.
fn global_norm(b: &mut Builder, slots: &[Slots], inverse_tokens: ValueId) -> ValueId {
    let squares: Vec<ValueId> = slots.iter().map(|slots| b.sum_squares(slots.gradient)).collect();
    let total = squares.into_iter().reduce(|sum, square| b.add(sum, square));
    let total = total.unwrap_or_else(|| b.constant(0.0, DType::F32));
    let norm = b.sqrt(total);
    b.mul(norm, inverse_tokens)
}

/// min(1, clip / (norm + 1e-6))
fn clip_coefficient(b: &mut Builder, norm: ValueId, clip: f64) -> ValueId {
    let (limit, one) = (b.constant(clip, DType::F32), b.constant(1.0, DType::F32));
    let below = b.add_scalar(norm, CLIP_EPS);
    let ratio = b.div(limit, below);
    b.apply(Op::Min, &[ratio, one], Attrs::none())
}

fn reset(b: &mut Builder, state: ValueId) {
    let zero = b.full_like(0.0, state);
    b.update(state, zero);
}

#[cfg(test)]
mod tests;

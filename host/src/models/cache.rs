//! Programs that generate text: positions are appended to a cache of keys and values, which is state.

use finetune_plugin_api::program::{Arg, Attrs, Builder, DType, Op, Program, Role, TensorType};

use super::forward::{BatchInputs, CacheInputs, Forward, ForwardOptions, input};
use super::{Architecture, ModelError};

/// The output of [`extend_program`]: the logits, `f32[B, vocabulary]`.
pub const LOGITS: &str = "logits";

/// The name of the cache of attention number `attention` with that capacity: of keys (part 0) or values (part 1).
pub(super) fn name(capacity: usize, attention: usize, part: usize) -> String {
    format!("cache.{capacity}.{attention}.{}", ["key", "value"][part])
}

/// A program over a cache.
pub struct Extension {
    /// The program, with composites.
    pub program: Program,
    /// The buffers of the cache, each a state argument `[B, capacity, key heads, channels of a head]`.
    pub cache: Vec<(String, TensorType)>,
}

/// Builds the program that appends B rows of T positions to a cache of that capacity and gives the logits of one
/// position of each row.
///
/// Its inputs are tokens, positions, valid, start and last of [`input`]. Rows stand at the same place in the cache:
/// that of the first element of `start`. `start` + T may not be beyond the capacity. Positions from `valid` on are
/// written too, and never seen.
///
/// # Errors
/// The model's config makes no valid program.
pub fn extend_program(
    model: &dyn Architecture,
    options: &ForwardOptions<'_>,
    capacity: usize,
) -> Result<Extension, ModelError> {
    let mut f = Forward::new(model, options);
    let (rows, length) = (options.rows, options.length);
    let grid = TensorType::new(DType::U32, &[rows, length]);
    let row = TensorType::new(DType::U32, &[rows]);
    let tokens = f.b.input(input::TOKENS, grid.clone());
    let positions = f.b.input(input::POSITIONS, grid);
    let [valid, start, last] =
        [input::VALID, input::START, input::LAST].map(|name| f.b.input(name, row.clone()));
    let at = f.b.slice(start, &[0], &[1]);
    let at = f.b.reshape(at, &[]);
    let cache = Some(CacheInputs { capacity, at });
    let batch = BatchInputs { tokens, positions, start, valid, rows, length, cache };
    let hidden = model.hidden(&mut f, &batch);
    f.b.set_place("logits");
    let hidden = f.b.apply(Op::Gather, &[hidden, last], Attrs::none());
    let logits = f.head_logits(&model.head(), hidden);
    let logits = f.b.cast(logits, DType::F32);
    f.b.output(LOGITS, logits);
    let program = f.b.finish()?;
    let cache = caches(&program).map(|arg| (arg.name.clone(), program.ty(arg.value).clone())).collect();
    Ok(Extension { program, cache })
}

fn caches(program: &Program) -> impl Iterator<Item = &Arg> {
    let updated = |arg: &Arg| program.updates().iter().any(|update| update.state == arg.value);
    program.args().iter().filter(move |arg| arg.role == Role::State && updated(arg))
}

/// Builds the program that copies one cache to another of more capacity, as [`Extension::cache`] lists them.
///
/// # Errors
/// The caches are not of one model.
pub fn grow_program(
    from: &[(String, TensorType)],
    to: &[(String, TensorType)],
) -> Result<Program, ModelError> {
    let mut b = Builder::new();
    let first = b.constant(0.0, DType::U32);
    for ((old, old_type), (new, new_type)) in from.iter().zip(to) {
        let old = b.param(old, old_type.clone());
        let new = b.state(new, new_type.clone());
        let all = b.apply(Op::UpdateSlice, &[new, old, first], Attrs::none().int("axis", 1));
        b.update(new, all);
    }
    Ok(b.finish()?)
}

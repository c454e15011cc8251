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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use finetune_plugin_api::reference::{Rounding, Tensor, run};
    use serde_json::Value;

    use super::*;
    use crate::models::{Config, from_config};
    use crate::precision::Precision;
    use crate::weights::ModelFolder;

    struct Model {
        files: ModelFolder,
        architecture: Box<dyn Architecture>,
    }

    impl Model {
        fn open(case: &str) -> Model {
            let data: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/data");
            let files = ModelFolder::open(&data.join(case).join("model")).unwrap();
            let config = Config::new(&Value::Object(files.config().clone())).unwrap();
            Model { architecture: from_config(&config).unwrap(), files }
        }

        fn options<T>(&self, length: usize, write: impl FnOnce(&ForwardOptions<'_>) -> T) -> T {
            write(&ForwardOptions {
                rows: 1,
                length,
                precision: Precision::F32,
                lora: None,
                full: false,
                dropout: false,
                stored: &|_| DType::F32,
            })
        }

        fn tensor(&self, name: &str, ty: &TensorType) -> Tensor {
            let values: Vec<f64> =
                match self.architecture.computed().into_iter().find(|(known, _)| known == name) {
                    Some((_, values)) => values.into_iter().map(f64::from).collect(),
                    None => {
                        let view = self.files.tensors().unwrap().require(name, &ty.shape).unwrap();
                        let bytes = view.bytes().as_slice().chunks_exact(4);
                        bytes.map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
                    }
                };
            Tensor::float(DType::F32, &ty.shape, values).unwrap()
        }

        /// Runs a program with these inputs and states, other arguments from the files; gives output and states.
        fn run(&self, program: &Program, given: &[(String, Tensor)]) -> (Vec<f64>, Vec<(String, Tensor)>) {
            let args: Vec<Tensor> = program
                .args()
                .iter()
                .map(|arg| match given.iter().find(|(name, _)| *name == arg.name) {
                    Some((_, tensor)) => tensor.clone(),
                    None => self.tensor(&arg.name, program.ty(arg.value)),
                })
                .collect();
            let outcome = run(program, &args, Rounding::None).unwrap();
            let logits = outcome.outputs.first().map_or(Vec::new(), |logits| logits.floats().to_vec());
            let states = caches(program).map(|arg| {
                (arg.name.clone(), outcome.state(program, &arg.name).expect("it is a state").clone())
            });
            (logits, states.collect())
        }

        /// The logits of every position, without a cache.
        fn uncached(&self, tokens: &[u32]) -> Vec<f64> {
            let length = tokens.len();
            let program = self.options(length, |options| {
                let mut f = Forward::new(self.architecture.as_ref(), options);
                let grid = TensorType::new(DType::U32, &[1, length]);
                let row = TensorType::new(DType::U32, &[1]);
                let tokens = f.b.input("tokens", grid.clone());
                let positions = f.b.input("positions", grid);
                let [start, valid] = ["start", "valid"].map(|name| f.b.input(name, row.clone()));
                let batch = BatchInputs { tokens, positions, start, valid, rows: 1, length, cache: None };
                let hidden = self.architecture.hidden(&mut f, &batch);
                let logits = f.head_logits(&self.architecture.head(), hidden);
                f.b.output(LOGITS, logits);
                f.b.finish().unwrap()
            });
            self.run(&program, &inputs(tokens, length, 0)).0
        }
    }

    fn inputs(tokens: &[u32], width: usize, first: usize) -> Vec<(String, Tensor)> {
        let mut padded = tokens.to_vec();
        padded.resize(width, 7);
        let positions = (first..first + width).map(|p| p as u32).collect();
        let one = |value: usize| Tensor::u32(&[1], vec![value as u32]).unwrap();
        vec![
            (input::TOKENS.into(), Tensor::u32(&[1, width], padded).unwrap()),
            (input::POSITIONS.into(), Tensor::u32(&[1, width], positions).unwrap()),
            (input::START.into(), one(first)),
            (input::VALID.into(), one(first + tokens.len())),
            (input::LAST.into(), one(tokens.len() - 1)),
        ]
    }

    /// What a model gives does not depend on how its text was read: at once, in padded pieces, or token by token, in
    /// a cache that was moved to a larger one meanwhile.
    fn check(case: &str) {
        let model = Model::open(case);
        let architecture = model.architecture.as_ref();
        let tokens: Vec<u32> = (0..24).map(|i| (i * 37 + 11) % 300).collect();
        let expected = model.uncached(&tokens);
        let vocabulary = architecture.vocabulary();
        let extend =
            |length, capacity| model.options(length, |o| extend_program(architecture, o, capacity).unwrap());
        let same = |logits: &[f64], position: usize| {
            let wanted = &expected[position * vocabulary..(position + 1) * vocabulary];
            for (got, want) in logits.iter().zip(wanted) {
                // Both in f64; sums are in another order.
                assert!(
                    (got - want).abs() <= 1e-10 * want.abs().max(1.0),
                    "{case}, {position}: {got}, {want}"
                );
            }
        };

        let [first, second] = [extend(8, 16), extend(4, 16)];
        let zeros = |cache: &[(String, TensorType)]| -> Vec<(String, Tensor)> {
            cache.iter().map(|(name, ty)| (name.clone(), Tensor::zeros(ty).unwrap())).collect()
        };
        let given = [inputs(&tokens[..8], 8, 0), zeros(&first.cache)].concat();
        let (logits, cache) = model.run(&first.program, &given);
        same(&logits, 7);
        let given = [inputs(&tokens[8..11], 4, 8), cache].concat();
        let (logits, small) = model.run(&second.program, &given);
        same(&logits, 10);

        let step = extend(1, 32);
        let grow = grow_program(&second.cache, &step.cache).unwrap();
        let (_, mut cache) = model.run(&grow, &[small, zeros(&step.cache)].concat());
        for position in 11..tokens.len() {
            let given = [inputs(&tokens[position..=position], 1, position), cache].concat();
            let (logits, after) = model.run(&step.program, &given);
            same(&logits, position);
            cache = after;
        }
    }

    #[test]
    fn gpt2_gives_the_same_with_a_cache() {
        ["gpt2", "gpt2-options"].into_iter().for_each(check);
    }

    #[test]
    fn llama_gives_the_same_with_a_cache() {
        ["llama2", "llama3", "llama-bias-head-dim"].into_iter().for_each(check);
    }

    /// The window of the first is shorter than the text.
    #[test]
    fn mistral_gives_the_same_with_a_cache() {
        ["mistral", "mistral-no-window"].into_iter().for_each(check);
    }
}

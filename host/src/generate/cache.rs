//! A model that reads tokens one after the other, with its cache of keys and values on the device.

use bytemuck::cast_slice;
use finetune_plugin_api::plan::peak;
use finetune_plugin_api::program::{Role, TensorType};

use crate::models::{Extension, LOGITS, grow_program, input};
use crate::train::TrainError;
use crate::train::plan::options;
use crate::train::session::{Purpose, Session};

use super::GenerateError;

/// The most positions that are read at once.
pub(super) const CHUNK: usize = 512;
/// The fewest positions that are read at once, if there is more than one.
const LEAST_CHUNK: usize = 16;
/// Positions that the first cache has room for.
const FIRST_CAPACITY: usize = 256;

/// A model and what it has read.
pub struct Reader {
    session: Session,
    capacity: usize,
    length: usize,
    buffers: Vec<(String, TensorType)>,
}

impl Reader {
    /// A model that has read nothing, with room for a first text of `expected` tokens.
    ///
    /// # Errors
    /// There is not the memory for it.
    pub fn new(session: Session, expected: usize) -> Result<Reader, GenerateError> {
        let mut reader = Reader { session, capacity: 0, length: 0, buffers: Vec::new() };
        reader.reserve(capacity_for(expected.next_multiple_of(LEAST_CHUNK)), false)?;
        Ok(reader)
    }

    /// Brings the model to the device.
    ///
    /// # Errors
    /// A file cannot be read, or the device gives no memory.
    pub fn load(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), GenerateError> {
        self.session.load(progress)?;
        self.make_buffers()
    }

    /// Tokens read.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads tokens; returns the logits of what follows the last one, a number for each token of the vocabulary.
    /// `go_on` is asked before each piece of a long text; if it says no, there are none.
    ///
    /// # Errors
    /// The device fails or has no memory.
    pub fn read(
        &mut self,
        tokens: &[u32],
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, GenerateError> {
        let mut logits = None;
        for piece in tokens.chunks(CHUNK) {
            if !go_on() {
                return Ok(None);
            }
            logits = Some(self.extend(piece)?);
        }
        Ok(logits)
    }

    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>, GenerateError> {
        let width = width(tokens.len());
        let needed = capacity_for(self.length + width);
        if needed > self.capacity {
            self.reserve(needed, true)?;
        }
        let purpose = Purpose::Extend { length: width, capacity: self.capacity };
        if !self.session.has_program(&purpose) {
            let extension = self.session.extension(width, self.capacity)?;
            self.session.compile(purpose.clone(), &extension.program)?;
        }
        let mut padded = tokens.to_vec();
        padded.resize(width, 0);
        let first = self.length as u32;
        let positions: Vec<u32> = (first..first + width as u32).collect();
        let start = [first];
        let valid = [first + tokens.len() as u32];
        let last = [tokens.len() as u32 - 1];
        let inputs: [(&str, &[u8]); 5] = [
            (input::TOKENS, cast_slice(&padded)),
            (input::POSITIONS, cast_slice(&positions)),
            (input::START, cast_slice(&start)),
            (input::VALID, cast_slice(&valid)),
            (input::LAST, cast_slice(&last)),
        ];
        let outputs = self.session.execute(&purpose, &inputs)?;
        let missing = || TrainError::Internal(format!("the program for {purpose:?} has no {LOGITS}"));
        let (_, buffer) = outputs.iter().find(|(name, _)| name == LOGITS).ok_or_else(missing)?;
        let mut logits = vec![0f32; buffer.ty().elements()];
        buffer.device().download(buffer, 0, bytemuck::cast_slice_mut(&mut logits))?;
        self.length += tokens.len();
        Ok(logits)
    }

    /// Makes the cache larger, what it holds copied on the device.
    fn reserve(&mut self, capacity: usize, loaded: bool) -> Result<(), GenerateError> {
        let widest = self.session.extension(CHUNK.min(capacity), capacity)?;
        self.check_memory(&widest, loaded)?;
        let old = std::mem::replace(&mut self.buffers, widest.cache);
        let from = std::mem::replace(&mut self.capacity, capacity);
        if !loaded {
            return Ok(());
        }
        self.make_buffers()?;
        if self.length > 0 {
            let purpose = Purpose::Grow { from };
            let program =
                self.session.lowered(grow_program(&old, &self.buffers).map_err(TrainError::from)?)?;
            self.session.compile(purpose.clone(), &program)?;
            self.session.execute(&purpose, &[])?;
        }
        // Nothing that is compiled for the old cache is of use any more.
        self.session.release(|purpose| {
            matches!(purpose, Purpose::Grow { .. })
                || matches!(purpose, Purpose::Extend { capacity: other, .. } if *other != capacity)
        });
        old.iter().for_each(|(name, _)| self.session.free(name));
        Ok(())
    }

    /// Zeros: what is not yet written is multiplied with probabilities of zero, which a NaN would survive.
    fn make_buffers(&mut self) -> Result<(), GenerateError> {
        for (name, ty) in &self.buffers {
            self.session.zeros(name, ty)?;
        }
        Ok(())
    }

    /// The memory that a cache needs is known before it is taken: some systems would end the process.
    fn check_memory(&self, extension: &Extension, loaded: bool) -> Result<(), GenerateError> {
        let report = peak(&extension.program, &options(&self.session)?);
        let device = &self.session.backend.device;
        let memory = device.memory()?;
        let cache: u64 = extension.cache.iter().map(|(_, ty)| ty.bytes() as u64).sum();
        let args = extension.program.args().iter();
        let tensors: u64 = args
            .filter(|arg| arg.role != Role::Input)
            .map(|arg| extension.program.ty(arg.value).bytes() as u64)
            .sum();
        let (needed, has) = match loaded {
            // The model is there already.
            true => (cache + report.arena as u64 + report.workspace as u64, memory.available),
            false => (tensors + report.arena as u64 + report.workspace as u64, memory.total),
        };
        // A device that does not know its memory says 0.
        if memory.total == 0 || needed <= has {
            return Ok(());
        }
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        Err(GenerateError::Settings(format!(
            "the model with room for {} tokens of text needs {:.1} GiB{}, and {} has {:.1} GiB{}; a shorter prompt or \
             fewer --max-tokens, or --precision bf16, needs less",
            cache_room(extension),
            gib(needed),
            if loaded { " more" } else { "" },
            self.session.backend.device_name,
            gib(has),
            if loaded { " left" } else { "" },
        )))
    }
}

fn cache_room(extension: &Extension) -> usize {
    extension.cache.first().and_then(|(_, ty)| ty.shape.get(1).copied()).unwrap_or(0)
}

/// Few widths, since each is a program.
fn width(tokens: usize) -> usize {
    if tokens == 1 { 1 } else { tokens.next_power_of_two().max(LEAST_CHUNK) }
}

/// Few capacities, since each is a program.
fn capacity_for(length: usize) -> usize {
    length.next_power_of_two().max(FIRST_CAPACITY)
}

//! The loss of a model on data.

use std::path::{Path, PathBuf};

use crate::data::{ChatTemplate, DataError, Dataset, EvalBatches, Tokenizer};

use super::config::PrecisionChoice;
use super::error::TrainError;
use super::event::{Event, Observer};
use super::session::{Backend, Session};
use super::source::{AdapterSource, LoraSettings, Source};

/// What to evaluate.
pub struct EvalRequest {
    /// A Hugging Face folder, a `config.json` or a GGUF file.
    pub model: PathBuf,
    /// A PEFT adapter on it.
    pub adapter: Option<PathBuf>,
    /// The data.
    pub data: PathBuf,
    /// A chat template in place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Positions of an example; longer ones are cut.
    pub seq_len: usize,
    /// Examples computed at once.
    pub batch: usize,
    /// The precision.
    pub precision: PrecisionChoice,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalSummary {
    /// Loss a target token, in nats.
    pub loss: f64,
    /// Target tokens.
    pub tokens: u64,
}

/// Evaluates.
pub fn evaluate(
    request: &EvalRequest,
    backend: Backend,
    observer: &mut dyn Observer,
) -> Result<EvalSummary, TrainError> {
    let precision = backend.precision(request.precision)?;
    let source = Source::open(&request.model, 0)?;
    source.check_length(request.seq_len)?;
    let said = LoraSettings { adapter: request.adapter.as_deref(), ..LoraSettings::default() };
    let adapter = match request.adapter {
        Some(_) => Some(AdapterSource::new(&source, &request.model, said)?),
        None => None,
    };
    if source.files.tensors().is_none() {
        let message =
            "the model has random weights, those of seed 0; what was trained on others is not measured";
        observer.event(&Event::Warning { message: message.into() });
    }
    let tokenizer = Tokenizer::from_model(&request.model)?;
    let mut chat = Chat::new(request.chat_template.as_deref(), &request.model)?;
    let data = chat.open(&request.data, &tokenizer, request.seq_len)?;
    let mut session = Session::new(backend, source, adapter, precision, false)?;
    session.load(&mut |done, total| observer.progress("loading the model", done, total))?;
    let mut progress = |done, total| observer.progress("evaluating", done, total);
    let (loss, tokens) = mean_loss(&mut session, &data, request.batch, &mut progress)?;
    if !loss.is_finite() {
        let problem = format!(
            "its loss is {loss}; its weights or the adapter's are damaged, or too large for this precision: try \
             --precision f32"
        );
        return Err(TrainError::folder(&request.model, problem));
    }
    Ok(EvalSummary { loss, tokens })
}

/// What renders rows that are conversations. A model's template that cannot be used matters only to such rows.
pub(super) struct Chat {
    pub template: Option<ChatTemplate>,
    problem: Option<DataError>,
}

impl Chat {
    /// The chat template that was given, else the model's, if it has one.
    pub fn new(given: Option<&Path>, model: &Path) -> Result<Chat, TrainError> {
        let template = match given {
            Some(file) => Ok(Some(ChatTemplate::from_file(file, model)?)),
            None => ChatTemplate::from_model(model),
        };
        Ok(match template {
            Ok(template) => Chat { template, problem: None },
            Err(problem) => Chat { template: None, problem: Some(problem) },
        })
    }

    pub fn open(
        &mut self,
        path: &Path,
        tokenizer: &Tokenizer,
        seq_len: usize,
    ) -> Result<Dataset, TrainError> {
        Dataset::open_chat(path, tokenizer, self.template.as_ref(), seq_len).map_err(|error| {
            let problem = self.problem.take_if(|_| matches!(error, DataError::NoChatTemplate { .. }));
            problem.unwrap_or(error).into()
        })
    }
}

/// Loss a target token over all of the data, and the number of target tokens.
pub(super) fn mean_loss(
    session: &mut Session,
    data: &Dataset,
    rows: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(f64, u64), TrainError> {
    let batches = EvalBatches::new(data, rows)?;
    let total = batches.batches();
    let (mut loss, mut tokens) = (0.0, 0);
    for (done, batch) in batches.enumerate() {
        let batch = batch?;
        if batch.target_tokens > 0 {
            loss += session.evaluate(&batch)?;
            tokens += batch.target_tokens;
        }
        progress(done as u64 + 1, total);
    }
    match tokens {
        0 => Err(TrainError::Settings(format!(
            "{} has no target token within --seq-len {}; there is nothing to evaluate",
            data.path().display(),
            data.seq_len()
        ))),
        tokens => Ok((loss / tokens as f64, tokens)),
    }
}

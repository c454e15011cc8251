use std::{io, path::PathBuf};

/// What can go wrong between a data file and a batch. Each is a sentence for the person who
/// started the run: which file and line, what was expected, what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The model's own file.
    #[error(transparent)]
    Model(#[from] crate::weights::WeightsError),

    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{path} is not a file; give a JSONL file (.jsonl) or a plain text file (.txt)")]
    NotAFile { path: PathBuf },

    /// A row of a JSONL file that cannot be used; `line` counts from 1 and counts blank lines too.
    #[error(
        "{path}, line {line}: {problem}; expected one JSON object a line: {{\"text\": \"...\"}}, \
         {{\"prompt\": \"...\", \"completion\": \"...\"}} or {{\"messages\": [{{\"role\": \"user\", \"content\": \
         \"...\"}}, ...]}}"
    )]
    BadRow { path: PathBuf, line: u64, problem: String },

    #[error(
        "{path}, line {line}: the row is a conversation ({{\"messages\": ...}}), and the model has no chat template \
         (chat_template.jinja, or chat_template in tokenizer_config.json); give one by --chat-template FILE"
    )]
    NoChatTemplate { path: PathBuf, line: u64 },

    /// A conversation that cannot be rendered, or not be learned from.
    #[error("{path}, line {line}: {problem}")]
    BadConversation { path: PathBuf, line: u64, problem: String },

    #[error("the chat template in {path} cannot be used: {reason}")]
    BadChatTemplate { path: PathBuf, reason: String },

    #[error("the chat template: {reason}")]
    ChatTemplate { reason: String },

    #[error(
        "{path}, line {line}: the file is a JSON array, not JSONL; convert it to one JSON object a line \
         (for example with `jq -c '.[]' old.json > new.jsonl`)"
    )]
    JsonArray { path: PathBuf, line: u64 },

    #[error(
        "{path}, line {line}: the line is longer than {limit} bytes; expected one example a line, so the \
         file may lack line ends"
    )]
    LineTooLong { path: PathBuf, line: u64, limit: u64 },

    #[error(
        "{path}, line {line}: byte {offset} of the file is not UTF-8; expected plain text in UTF-8 (unpack a \
         compressed file, convert another encoding with `iconv -t utf-8`)"
    )]
    NotUtf8 { path: PathBuf, line: u64, offset: u64 },

    #[error("{path} holds nothing to train on: {reason}")]
    Empty { path: PathBuf, reason: &'static str },

    #[error("{path} changed while it was in use ({what}); keep the data file as it is during a run")]
    Changed { path: PathBuf, what: String },

    #[error(
        "{path}: the {bytes} bytes of text from byte {offset} cannot be tokenized in pieces that agree with \
         each other (a very long run without words?); break the text with line ends or spaces"
    )]
    NoCut { path: PathBuf, offset: u64, bytes: u64 },

    #[error("{path}, line {line}: the tokenizer cannot encode this row: {reason}")]
    EncodeRow { path: PathBuf, line: u64, reason: String },

    #[error("the tokenizer cannot encode the text: {reason}")]
    Encode { reason: String },

    #[error("no tokenizer in {folder}: {advice}")]
    NoTokenizer { folder: PathBuf, advice: String },

    #[error("{path} cannot be used: {reason}")]
    BadTokenizerFile { path: PathBuf, reason: String },

    #[error(
        "a vocabulary of {asked} tokens was asked for, but it must have {smallest} (every byte and the special \
         tokens) to {largest}"
    )]
    Vocabulary { asked: usize, smallest: usize, largest: usize },

    #[error("no tokenizer can be made of this text: {reason}")]
    Learn { reason: String },

    #[error("{path} is there already; delete it, or write the tokenizer to another folder")]
    TokenizerExists { path: PathBuf },

    #[error("{name} is {value}, but must be at least 1")]
    NotPositive { name: &'static str, value: u64 },

    #[error("example {index} was asked for, but {path} has {len}")]
    NoSuchExample { path: PathBuf, index: u64, len: u64 },

    #[error("the thread that prepares batches stopped unexpectedly; its message is above this one")]
    PrefetchStopped,
}

//! The flags of every subcommand.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::train::config::heading;
use crate::train::{PrecisionChoice, Settings};

/// Fine-tunes language models through the compute back ends it finds as plugins
#[derive(Debug, Parser)]
#[command(
    name = "finetune",
    version,
    propagate_version = true,
    args_override_self = true,
    max_term_width = 110
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Log more; -vv and -vvv still more (or set FINETUNE_LOG, for example to debug)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Seconds that a plugin may take to say which devices it has
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "FINETUNE_PROBE_TIMEOUT",
        hide_env_values = true,
        default_value = "10",
        value_parser = seconds,
        help_heading = heading::RUNNING
    )]
    pub probe_timeout: Duration,
    /// Seconds that a device may take for the short training step by which it is measured
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "SECONDS",
        env = "FINETUNE_MEASURE_TIMEOUT",
        default_value = "60",
        value_parser = seconds,
        help_heading = heading::RUNNING
    )]
    pub measure_timeout: Duration,
}

/// A time that one may wait.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = time.filter(|time| (Duration::from_millis(1)..Duration::from_secs(86400)).contains(time));
    time.ok_or_else(|| "expected seconds, more than 0 and less than a day".into())
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a model
    Train(Box<TrainArgs>),
    /// Measure a model's loss on data
    Eval(EvalArgs),
    /// Write a model as a Hugging Face folder, with its adapter merged into the weights
    Export(ExportArgs),
    /// Draw runs: their losses and settings on one page
    Report(ReportArgs),
    /// Generate text with a model
    Generate(GenerateArgs),
    /// Make a tokenizer for a model that begins from random weights
    Tokenizer(TokenizerArgs),
    /// See the compute back ends
    Plugins(PluginsArgs),
    /// What this program asks plugins in, as a child of itself
    #[cfg(unix)]
    #[command(name = crate::plugins::CHILD_SUBCOMMAND, hide = true)]
    Child,
    /// What `train` has its training done by, as a child of itself
    #[cfg(unix)]
    #[command(name = crate::train::supervise::SUBCOMMAND, hide = true)]
    Worker(WorkerArgs),
}

/// `finetune train`.
#[derive(Args, Debug)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Each setting is also a key of the file given with --config, by the flag's name without the dashes, as in \
`seq-len = 256`. Flags win over the file. Relative paths, also those in the file, begin at the working directory.

A run that was stopped goes on with `finetune train --resume --out DIR`, with the settings it was started with. \
Only --steps, --epochs, --micro-batch, --valid, --save-every, --eval-every, --backend, --plugins, --reserve, \
--verify and --strict may then be others.

If a back end crashes, hangs, fails or loses its device, the run goes on after the last step whose outcome was kept, \
once more on the same back end, then on the next in rank, also where --backend named the first; where memory runs out, \
first with a smaller --micro-batch. Each time a line and an event say so. Precision and data stay what they were. \
--strict ends the run instead.

Exit codes: 0 the run is complete; 1 it could not begin or go on; 2 the command line is wrong; 3 the back end failed, \
and --strict keeps from going on another way; 130 it was interrupted, and was saved.

The run folder holds config.toml (the settings), metrics.jsonl (the events that --json prints), checkpoints/step-N \
(the latest two: what PEFT or transformers loads, with the optimizer's state beside it) and, at the end, adapter (a \
PEFT adapter) or model (a Hugging Face folder).

--targets NAMES takes the ends of module paths, as PEFT's target_modules: q_proj,v_proj. With --adapter, rank, alpha, \
targets and their patterns come from its adapter_config.json, and a flag that says otherwise is an error; only \
--dropout may differ. An adapter with something else than plain or rank-stabilized LoRA in it (DoRA, biases, modules \
saved whole) is refused by name."
)]
pub struct TrainArgs {
    /// Run folder, where settings, metrics, checkpoints and the result go
    #[arg(long, value_name = "DIR", help_heading = heading::MODEL)]
    pub out: PathBuf,
    /// What the run is.
    #[command(flatten)]
    pub settings: Settings,
    /// Go on with the run in --out from its last checkpoint
    #[arg(long, help_heading = heading::RUNNING)]
    pub resume: bool,
    /// Settings from a TOML file, under those of the command line
    #[arg(long, value_name = "FILE.toml", help_heading = heading::RUNNING)]
    pub config: Option<PathBuf>,
    /// Print events on standard output, one JSON object a line
    #[arg(long, help_heading = heading::RUNNING)]
    pub json: bool,
    /// Seconds without a sign of life after which a step counts as hung; never less than 20 of the longest steps
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, help_heading = heading::RUNNING)]
    pub step_timeout: Duration,
    /// Seconds that loading, compiling or the first run of a program may take without a sign of life
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds,
        help_heading = heading::RUNNING)]
    pub start_timeout: Duration,
}

/// The hidden subcommand of a worker.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// Its log may have colors
    #[arg(long)]
    pub color: bool,
}

/// `finetune eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Model: a Hugging Face folder, or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf", help_heading = heading::MODEL)]
    pub model: PathBuf,
    /// PEFT adapter on the model
    #[arg(long, value_name = "DIR", help_heading = heading::MODEL)]
    pub adapter: Option<PathBuf>,
    /// Data: JSONL rows {"text"}, {"prompt","completion"} or {"messages"}, or plain text
    #[arg(long, value_name = "FILE", help_heading = heading::MODEL)]
    pub data: PathBuf,
    /// Chat template (jinja) for {"messages"} rows, in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = heading::MODEL)]
    pub chat_template: Option<PathBuf>,
    /// Positions of an example; longer ones are cut [default: 512]
    #[arg(long, value_name = "N", help_heading = heading::MODEL)]
    pub seq_len: Option<usize>,
    /// Examples computed at once [default: 8]
    #[arg(long, value_name = "N", help_heading = heading::RUNNING)]
    pub batch: Option<usize>,
    /// Precision of weights and activations [default: auto]
    #[arg(long, help_heading = heading::RUNNING)]
    pub precision: Option<PrecisionChoice>,
    /// Back end: auto, NAME or NAME:DEVICE [default: auto]
    #[arg(long, value_name = "NAME", env = "FINETUNE_BACKEND", hide_env_values = true, help_heading = heading::RUNNING)]
    pub backend: Option<String>,
    /// Folder of plugins, in place of the default ones; may be repeated
    #[arg(long, value_name = "DIR", help_heading = heading::RUNNING)]
    pub plugins: Vec<PathBuf>,
    /// Print the result as a JSON object
    #[arg(long, help_heading = heading::RUNNING)]
    pub json: bool,
}

/// `finetune export`.
#[derive(Args, Debug)]
#[command(after_help = "\
The adapter's products are computed in double precision and rounded once. What was written is read again and compared \
with base and adapter before the folder gets its name; how far rounding moves the layers is told. Tokenizer, generation \
config and chat template are copied. Above 5 GB the weights are split into several files with an index.")]
pub struct ExportArgs {
    /// Model: a Hugging Face folder, or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: PathBuf,
    /// PEFT adapter on the model, to merge into it
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Type of the weights [default: that of the model's files]
    #[arg(long)]
    pub dtype: Option<ExportDType>,
    /// Folder to write, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the result as a JSON object
    #[arg(long)]
    pub json: bool,
}

/// A type of exported weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportDType {
    /// 32 bits
    F32,
    /// 16 bits, the range of f32
    Bf16,
    /// 16 bits, up to 65504
    F16,
}

/// `finetune report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Run folders, as `finetune train --out` made them; several are drawn over each other
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Page to write [default: report.html in the first run's folder]
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Write one picture of the losses instead, as for a README
    #[arg(long, value_name = "FILE.svg", conflicts_with = "out")]
    pub picture: Option<PathBuf>,
    /// Draw losses on a logarithmic scale
    #[arg(long)]
    pub log: bool,
}

/// `finetune generate`.
#[derive(Args, Debug)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Standard output is the completion and nothing else, written as it is generated; everything else goes to standard \
error. The text ends with the model's end token, after --max-tokens, or where the model has no more positions."
)]
pub struct GenerateArgs {
    /// Model: a Hugging Face folder, or a GGUF file
    #[arg(long, value_name = "DIR|FILE.gguf", help_heading = heading::MODEL)]
    pub model: PathBuf,
    /// PEFT adapter on the model
    #[arg(long, value_name = "DIR", help_heading = heading::MODEL)]
    pub adapter: Option<PathBuf>,
    /// Text to go on with; - reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = heading::TEXT)]
    pub prompt: String,
    /// The prompt is what a user says, and the model's chat template asks for the answer
    #[arg(long, help_heading = heading::TEXT)]
    pub chat: bool,
    /// With --chat: the system message, in place of the template's own
    #[arg(long, value_name = "TEXT", help_heading = heading::TEXT)]
    pub system: Option<String>,
    /// With --chat: a chat template (jinja), in place of the model's own
    #[arg(long, value_name = "FILE", help_heading = heading::TEXT)]
    pub chat_template: Option<PathBuf>,
    /// The most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = heading::TEXT)]
    pub max_tokens: usize,
    /// What logits are divided by; 0 always takes the most probable token
    #[arg(long, value_name = "F", default_value_t = 0.7, help_heading = heading::SAMPLING)]
    pub temperature: f64,
    /// Choose among the most probable tokens that together have this probability
    #[arg(long, value_name = "F", default_value_t = 0.95, help_heading = heading::SAMPLING)]
    pub top_p: f64,
    /// Choose among this many of the most probable tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = heading::SAMPLING)]
    pub top_k: usize,
    /// Seed of the choices
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = heading::SAMPLING)]
    pub seed: u64,
    /// Precision of weights and activations [default: auto]
    #[arg(long, help_heading = heading::RUNNING)]
    pub precision: Option<PrecisionChoice>,
    /// Back end: auto, NAME or NAME:DEVICE [default: auto]
    #[arg(long, value_name = "NAME", env = "FINETUNE_BACKEND", hide_env_values = true, help_heading = heading::RUNNING)]
    pub backend: Option<String>,
    /// Folder of plugins, in place of the default ones; may be repeated
    #[arg(long, value_name = "DIR", help_heading = heading::RUNNING)]
    pub plugins: Vec<PathBuf>,
}

/// `finetune tokenizer`.
#[derive(Args, Debug)]
#[command(after_help = "\
The tokenizer is a byte-level BPE as GPT-2's: it can write every text. Its first tokens are <|endoftext|>, \
<|im_start|> and <|im_end|>, and its chat template is ChatML. The same text gives the same tokenizer. To train a model \
with it from random weights, put a config.json with the same vocab_size and `\"eos_token_id\": 0` beside it.")]
pub struct TokenizerArgs {
    /// Text to learn from: JSONL rows or plain text; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub data: Vec<PathBuf>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", default_value_t = 16384)]
    pub vocab: usize,
    /// Folder for tokenizer.json and tokenizer_config.json
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `finetune plugins`.
#[derive(Args, Debug)]
pub struct PluginsArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: PluginsCommand,
}

/// The subcommands of `finetune plugins`.
#[derive(Debug, Subcommand)]
pub enum PluginsCommand {
    /// List every candidate, with its devices or with why it cannot be used
    List(PluginsListArgs),
    /// Ask a plugin again that was refused or measured before
    Retry(PluginsRetryArgs),
}

/// `finetune plugins retry`.
#[derive(Args, Debug)]
pub struct PluginsRetryArgs {
    /// Name of the back end, or its file
    #[arg(value_name = "NAME")]
    pub name: String,
    /// As for `list`.
    #[command(flatten)]
    pub list: PluginsListArgs,
}

/// `finetune plugins list`.
#[derive(Args, Debug)]
pub struct PluginsListArgs {
    /// Folder of plugins, in place of the default ones; may be repeated
    #[arg(long, value_name = "DIR")]
    pub plugins: Vec<PathBuf>,
    /// Print the list as a JSON object
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;

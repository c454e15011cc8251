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
}

/// `finetune train`.
#[derive(Args, Debug)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Each setting is also a key of the file given with --config, by the flag's name without the dashes, as in \
`seq-len = 256`. Flags win over the file. Relative paths, also those in the file, begin at the working directory.

A run that was stopped goes on with `finetune train --resume --out DIR`, with the settings it was started with. \
Only --steps, --epochs, --micro-batch, --valid, --save-every, --eval-every, --backend and --plugins may then be \
others.

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
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::train::{Method, ScheduleKind};

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(format!("finetune {line}").split_whitespace())
    }

    fn train(line: &str) -> TrainArgs {
        match parse(&format!("train --out o {line}")).expect("parses").command {
            Command::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The command line is kept stable: whoever has a script need not change it.
    #[test]
    fn every_flag_of_train_parses() {
        let args = train(
            "--model m --data d --valid v --chat-template t --method lora --rank 4 --alpha 32.5 --targets attention --dropout 0.1 \
             --adapter a --batch 16 --micro-batch 2 --seq-len 64 --steps 7 --lr 3e-3 --schedule cosine --warmup 5 \
             --weight-decay 0.01 --beta1 0.8 --beta2 0.99 --eps 1e-7 --clip 0 --seed 9 --no-shuffle \
             --precision bf16 --backend cpu:0 --plugins p --plugins q --save-every 10 --eval-every 20 --resume \
             --config c.toml --json",
        );
        let s = args.settings;
        assert_eq!((args.resume, args.json, args.config), (true, true, Some("c.toml".into())));
        assert_eq!((s.model, s.data, s.valid), (Some("m".into()), Some("d".into()), Some("v".into())));
        assert_eq!(s.chat_template, Some("t".into()));
        assert_eq!((s.method, s.rank, s.alpha), (Some(Method::Lora), Some(4), Some(32.5)));
        assert_eq!((s.targets.as_deref(), s.dropout), (Some("attention"), Some(0.1)));
        assert_eq!((s.adapter, s.batch, s.micro_batch), (Some("a".into()), Some(16), Some(2)));
        assert_eq!((s.seq_len, s.steps, s.epochs, s.lr), (Some(64), Some(7), None, Some(3e-3)));
        assert_eq!((s.schedule, s.warmup), (Some(ScheduleKind::Cosine), Some(5)));
        assert_eq!((s.weight_decay, s.beta1, s.beta2), (Some(0.01), Some(0.8), Some(0.99)));
        assert_eq!((s.eps, s.clip, s.seed, s.no_shuffle), (Some(1e-7), Some(0.0), Some(9), Some(true)));
        assert_eq!((s.precision, s.backend.as_deref()), (Some(PrecisionChoice::Bf16), Some("cpu:0")));
        assert_eq!(s.plugins, [PathBuf::from("p"), "q".into()]);
        assert_eq!((s.save_every, s.eval_every), (Some(10), Some(20)));
    }

    #[test]
    fn what_is_not_said_is_left_to_file_and_defaults() {
        assert_eq!(train("").settings, Settings::default());
        assert_eq!(train("--epochs 3").settings.epochs, Some(3));
        // A file's `no-shuffle = true` can be taken back.
        assert_eq!(train("--no-shuffle=false").settings.no_shuffle, Some(false));
        // A flag after it is not taken for its value.
        assert_eq!(train("--no-shuffle --json").settings.no_shuffle, Some(true));
    }

    /// The check of values answers, with its sentence, and not "unexpected argument '-1'".
    #[test]
    fn negative_numbers_are_values() {
        assert_eq!(train("--lr -0.1 --clip -2").settings.lr, Some(-0.1));
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "train",
            "train --out o --steps 1 --epochs 1",
            "train --out o --method dora",
            "train --out o --rank x",
            "train --out o --unknown",
            "eval --model m",
            "tokenizer --out o",
            "plugins",
            "",
        ] {
            assert_eq!(parse(line).expect_err("wrong").exit_code(), 2, "{line}");
        }
        assert_eq!(parse("--version").expect_err("shown").exit_code(), 0);
    }

    #[test]
    fn the_other_commands_parse() {
        let line = "eval --model m --adapter a --data d --seq-len 64 --batch 2 --precision f32 --backend cpu \
                    --plugins p --json -vv";
        let cli = parse(line).expect("parses");
        assert_eq!(cli.verbose, 2);
        match cli.command {
            Command::Eval(args) => {
                assert_eq!((args.seq_len, args.batch, args.json), (Some(64), Some(2), true))
            }
            other => panic!("{other:?}"),
        }
        match parse("tokenizer --data a --data b --vocab 300 --out o").expect("parses").command {
            Command::Tokenizer(args) => assert_eq!((args.data.len(), args.vocab), (2, 300)),
            other => panic!("{other:?}"),
        }
        assert!(parse("plugins list --plugins p --plugins q --json").is_ok());
        assert!(parse("-v plugins list").is_ok());
        assert!(parse("plugins retry cpu --plugins p --json --probe-timeout 2.5").is_ok());
        for wrong in ["0", "-1", "nan", "inf", "1e9", "soon"] {
            assert!(parse(&format!("plugins list --probe-timeout={wrong}")).is_err(), "{wrong}");
        }
    }

    /// Every flag is in a group that says what it is about.
    #[test]
    fn help_is_in_groups() {
        let command = Cli::command();
        let train = command.find_subcommand("train").expect("train");
        for arg in train
            .get_arguments()
            .filter(|arg| !["verbose", "help", "version"].contains(&arg.get_id().as_str()))
        {
            assert!(arg.get_help_heading().is_some(), "{}", arg.get_id());
            assert!(arg.get_help().is_some(), "{}", arg.get_id());
        }
    }
}

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
         --config c.toml --json --reserve 2GiB --verify --strict --step-timeout 5 --start-timeout 9",
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
    assert_eq!(
        (s.reserve.map(|size| size.bytes()), s.verify, s.strict),
        (Some(2 << 30), Some(true), Some(true))
    );
    assert_eq!((args.step_timeout.as_secs(), args.start_timeout.as_secs()), (5, 9));
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
    for arg in
        train.get_arguments().filter(|arg| !["verbose", "help", "version"].contains(&arg.get_id().as_str()))
    {
        assert!(arg.get_help_heading().is_some(), "{}", arg.get_id());
        assert!(arg.get_help().is_some(), "{}", arg.get_id());
    }
}

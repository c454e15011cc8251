//! The command line: flags in, results on standard output, everything for people on standard error.

pub mod args;
mod backend;
pub mod display;
mod eval;
mod export;
mod generate;
mod given;
mod interrupt;
pub mod output;
pub mod plugins;
mod report;
mod tokenizer;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::train::ConfigError;

use args::{Cli, Command, PluginsCommand};
use display::Screen;

/// The exit status of a command that was used wrongly, as clap has it too.
const USAGE: u8 = 2;

/// Does what the process's arguments ask for.
///
/// The exit status is 0 if it was done, 1 if it could not be, 2 if the command line is wrong, 130 if it was
/// interrupted and saved what it had.
pub fn main() -> ExitCode {
    let cli = parse();
    backend::set_timeouts(cli.probe_timeout, cli.measure_timeout);
    let screen = Screen::stderr();
    if let Err(error) = log(cli.verbose, &screen) {
        return fail(&error, &screen);
    }
    let done = match cli.command {
        Command::Train(args) => train::run(*args, &screen),
        Command::Eval(args) => eval::run(args, &screen).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(args, &screen).map(|()| ExitCode::SUCCESS),
        Command::Report(args) => report::run(&args, &screen).map(|()| ExitCode::SUCCESS),
        Command::Generate(args) => generate::run(args, &screen),
        Command::Tokenizer(args) => tokenizer::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Plugins(args) => match args.command {
            PluginsCommand::List(args) => plugins::list(&args).map(|()| ExitCode::SUCCESS),
            PluginsCommand::Retry(args) => plugins::retry(&args).map(|()| ExitCode::SUCCESS),
        },
        #[cfg(unix)]
        Command::Child => child(),
    };
    done.unwrap_or_else(|error| fail(&error, &screen))
}

/// The arguments. Who runs this with more rights than their own says nothing by the environment.
fn parse() -> Cli {
    fn without_environment(command: clap::Command) -> clap::Command {
        let command = command.mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
        command.mut_subcommands(without_environment)
    }
    match crate::plugins::privileges_are_raised() {
        false => Cli::parse(),
        true => {
            let matches = without_environment(Cli::command()).get_matches();
            Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
        }
    }
}

/// The other side of asking a plugin.
#[cfg(unix)]
fn child() -> anyhow::Result<ExitCode> {
    use anyhow::Context;
    crate::plugins::answer_as_child(crate::calibrate::measure)
        .context("this command is what finetune starts by itself, to ask a plugin")?;
    Ok(ExitCode::SUCCESS)
}

fn fail(error: &anyhow::Error, screen: &Screen) -> ExitCode {
    screen.line(&format!("{} {}", screen.error("error:"), output::sentence(error)));
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Missing { .. }) => USAGE.into(),
        _ => ExitCode::FAILURE,
    }
}

/// Sends the log to `screen`: warnings, more with each `-v`, or what `FINETUNE_LOG` asks for.
fn log(verbose: u8, screen: &Screen) -> anyhow::Result<()> {
    use tracing_subscriber::filter::EnvFilter;

    let said = std::env::var("FINETUNE_LOG").ok().filter(|said| !said.is_empty());
    let directives = match (verbose, said) {
        (0, Some(said)) => said,
        (0, None) => "warn".to_owned(),
        (1, _) => "warn,finetune_host=info".to_owned(),
        (2, _) => "info,finetune_host=debug".to_owned(),
        (_, _) => "trace".to_owned(),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        anyhow::anyhow!("FINETUNE_LOG is {directives:?}, which is no filter of a log: {error}; try debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(screen.color())
        .with_target(verbose > 1)
        .without_time()
        .with_writer(screen.clone())
        .init();
    Ok(())
}

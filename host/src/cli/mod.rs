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

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::train::ConfigError;

use args::{Cli, Command, PluginsCommand};
use display::Screen;

/// The exit status of a command that has done what it was asked for.
const DONE: u8 = 0;
/// The exit status of a command that could not.
const FAILED: u8 = 1;
/// The exit status of a command that was used wrongly, as clap has it too.
const USAGE: u8 = 2;
/// The exit status of a run whose back end failed and that may not go on another way.
#[cfg(unix)]
const STRICT: u8 = 3;

/// Does what the process's arguments ask for and ends it.
///
/// The exit status is 0 if it was done, 1 if it could not be, 2 if the command line is wrong, 3 if the back end failed
/// and `--strict` keeps from going on another way, 130 if it was interrupted and saved what it had.
pub fn main() -> ! {
    let status = run();
    crate::plugins::leave(status)
}

fn run() -> u8 {
    #[cfg(unix)]
    if let Err(error) = interrupt::survive_file_limit() {
        let error =
            anyhow::Error::from(error).context("cannot install a handler for files that grow too large");
        return fail(&error, &Screen::stderr());
    }
    let cli = parse();
    backend::set_timeouts(cli.probe_timeout, cli.measure_timeout);
    #[cfg(unix)]
    if let Command::Worker(args) = &cli.command {
        return worker(args.color, cli.verbose);
    }
    let screen = Screen::stderr();
    if let Err(error) = log(cli.verbose, &screen) {
        return fail(&error, &screen);
    }
    let done = match cli.command {
        Command::Train(args) => train::run(*args, cli.verbose, &screen),
        Command::Eval(args) => eval::run(args, &screen).map(|()| DONE),
        Command::Export(args) => export::run(args, &screen).map(|()| DONE),
        Command::Report(args) => report::run(&args, &screen).map(|()| DONE),
        Command::Generate(args) => generate::run(args, &screen),
        Command::Tokenizer(args) => tokenizer::run(&args).map(|()| DONE),
        Command::Plugins(args) => match args.command {
            PluginsCommand::List(args) => plugins::list(&args).map(|()| DONE),
            PluginsCommand::Retry(args) => plugins::retry(&args).map(|()| DONE),
        },
        #[cfg(unix)]
        Command::Child => child(),
        #[cfg(unix)]
        Command::Worker(_) => unreachable!("a worker has its own way"),
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
fn child() -> anyhow::Result<u8> {
    use anyhow::Context;
    crate::plugins::answer_as_child(crate::calibrate::measure)
        .context("this command is what finetune starts by itself, to ask a plugin")?;
    Ok(DONE)
}

/// The process that trains, under the one that watches.
#[cfg(unix)]
fn worker(color: bool, verbose: u8) -> u8 {
    use crate::train::supervise::{Channel, serve};
    let channel = match Channel::take() {
        Ok(channel) => channel,
        Err(error) => return fail(&not_a_command(error), &Screen::stderr()),
    };
    let screen = Screen::relayed(channel.clone(), color);
    let served = log(verbose, &screen).and_then(|()| {
        // The supervisor hears of Ctrl-C too, and says what is to be done.
        interrupt::outlive()?;
        serve(&channel, backend::open_choice).map_err(not_a_command)
    });
    match served {
        Ok(never) => match never {},
        Err(error) => fail(&error, &Screen::stderr()),
    }
}

#[cfg(unix)]
fn not_a_command(error: std::io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context("this command is what `finetune train` starts by itself")
}

fn fail(error: &anyhow::Error, screen: &Screen) -> u8 {
    screen.line(&format!("{} {}", screen.error("error:"), output::sentence(error)));
    #[cfg(unix)]
    if let Some(crate::train::supervise::SuperviseError::Strict(_)) = error.downcast_ref() {
        return STRICT;
    }
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Missing { .. }) => USAGE,
        _ => FAILED,
    }
}

/// Sends the log to `screen`: warnings, more with each `-v`, or what `FINETUNE_LOG` asks for.
fn log(verbose: u8, screen: &Screen) -> anyhow::Result<()> {
    use tracing_subscriber::filter::EnvFilter;

    let trusted = !crate::plugins::privileges_are_raised();
    let said = std::env::var("FINETUNE_LOG").ok().filter(|said| trusted && !said.is_empty());
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

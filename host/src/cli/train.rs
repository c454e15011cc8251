//! `finetune train`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::plugins::Choice;
use crate::train::config::complete::SEQ_LEN;
use crate::train::{Event, Method, Observer, RunConfig, RunFolder, Settings, StopFlag};

use super::args::TrainArgs;
use super::display::{About, Human, Screen};
use super::interrupt;
use super::output::{JsonEvents, Output};

/// Trains, and tells of it.
///
/// # Errors
/// What keeps the run from beginning or going on.
pub fn run(args: TrainArgs, verbose: u8, screen: &Screen) -> anyhow::Result<u8> {
    let resume = args.resume;
    let out = args.out.clone();
    let json = args.json.then(|| JsonEvents::new(Output::stdout()));
    let patience = (args.step_timeout, args.start_timeout);
    let given = settings(args)?;
    let config = given.clone().resolve(out)?;
    // As it is kept, a path must mean the same from wherever the run goes on.
    let kept = given.clone().complete().absolute()?;
    super::given::check(&given)?;
    let choices = super::backend::choices(&kept, screen)?;
    let stop = StopFlag::new();
    interrupt::install(
        &stop,
        screen,
        "stopping after this step and saving; again to stop at once, without saving",
    )?;
    let before = if resume { first_loss(&config.out) } else { None };
    let mut both = Both { human: Human::new(screen.clone(), About::run(&config), before), json };
    let run = Trained { config: &config, given, kept, resume, choices, patience, verbose };
    let stopped = run.train(&stop, &mut both, screen)?;
    if stopped {
        both.human.end(None, &format!("finetune train --resume --out {}", quoted(&config.out)));
    } else {
        both.human.end(Some(&config.result()), &evaluation(&config, &run.kept));
    }
    if let Some(error) = both.json.and_then(JsonEvents::error) {
        return Err(error)
            .context("the run is complete, but its events could not be written to standard output");
    }
    Ok(if stopped { interrupt::INTERRUPTED } else { super::DONE })
}

/// What is to be trained, and on what.
struct Trained<'a> {
    config: &'a RunConfig,
    given: Settings,
    kept: Settings,
    resume: bool,
    choices: Vec<Choice>,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no workers"))]
    patience: (Duration, Duration),
    #[cfg_attr(not(unix), expect(dead_code, reason = "there are no workers"))]
    verbose: u8,
}

impl Trained<'_> {
    /// Trains in processes of their own; true if it was asked to stop.
    #[cfg(unix)]
    fn train(&self, stop: &StopFlag, observer: &mut dyn Observer, screen: &Screen) -> anyhow::Result<bool> {
        use crate::train::supervise::{self, Job, Patience, supervise};
        let mut arguments = vec![supervise::SUBCOMMAND.to_owned()];
        arguments.extend((0..self.verbose).map(|_| "-v".to_owned()));
        arguments.extend(screen.color().then(|| "--color".to_owned()));
        let job = Job {
            config: self.config,
            given: self.given.clone(),
            kept: self.kept.clone(),
            resume: self.resume,
            choices: self.choices.clone(),
            patience: Patience { step: self.patience.0, start: self.patience.1 },
            program: this_program()?,
            arguments,
        };
        let shown = screen.clone();
        Ok(supervise(&job, stop, observer, move |text| shown.line(text))?.stopped)
    }

    /// Without sockets to inherit, the host trains where it runs; true if it was asked to stop.
    #[cfg(not(unix))]
    fn train(&self, stop: &StopFlag, observer: &mut dyn Observer, _: &Screen) -> anyhow::Result<bool> {
        let backend = super::backend::open_choice(self.choices.first().context("there is a first choice")?)?;
        let (config, settings) = (self.config.clone(), self.kept.clone());
        let request = crate::train::TrainRequest { config, settings, resume: self.resume };
        Ok(crate::train::train(&request, backend, stop, observer)?.stopped)
    }
}

/// This program, to be started again: on Linux the very file that runs, also when another has taken its place.
#[cfg(unix)]
fn this_program() -> anyhow::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match cfg!(target_os = "linux") && running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe().context("this program does not know its own file"),
    }
}

/// The settings of the command line over those of its file, or over those that the run was started with.
fn settings(args: TrainArgs) -> anyhow::Result<Settings> {
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let given = args.settings.overlay(file);
    if !args.resume {
        return Ok(given);
    }
    if !RunFolder::can_resume(&args.out) {
        anyhow::bail!(
            "there is no run in {} that could go on (it has no config.toml); leave --resume out to begin one",
            args.out.display()
        );
    }
    let saved = RunFolder::settings(&args.out)?.complete();
    Ok(given.absolute()?.resume_from(saved)?)
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Settings::from_toml(&text, path)?)
}

/// The held-out loss from before a run's first step, as its record says, if it does.
fn first_loss(out: &Path) -> Option<f64> {
    let lines = BufReader::new(File::open(out.join("metrics.jsonl")).ok()?).lines();
    let mut events = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
    events.find_map(|event| match event {
        Event::Eval { step: 0, loss, .. } => Some(loss),
        _ => None,
    })
}

/// The command that evaluates what a run has made, as the run itself did.
fn evaluation(config: &RunConfig, settings: &Settings) -> String {
    let mut words = vec!["finetune eval".to_owned()];
    let mut flag = |name: &str, value: String| words.push(format!("--{name} {value}"));
    match config.method {
        Method::Full => flag("model", quoted(&config.out.join("model"))),
        Method::Lora => {
            flag("model", quoted(&config.model));
            flag("adapter", quoted(&config.out.join("adapter")));
        }
    }
    flag("data", quoted(config.valid.as_ref().unwrap_or(&config.data)));
    if let Some(template) = &config.chat_template {
        flag("chat-template", quoted(template));
    }
    if config.seq_len != SEQ_LEN {
        flag("seq-len", config.seq_len.to_string());
    }
    if let Some(backend) = settings.backend.as_ref().filter(|backend| *backend != "auto") {
        flag("backend", quoted(Path::new(backend)));
    }
    for folder in &settings.plugins {
        flag("plugins", quoted(folder));
    }
    words.join(" ")
}

/// A word for a shell.
fn quoted(path: &Path) -> String {
    #[cfg(unix)]
    if path.to_str().is_none() {
        let bytes = path.as_os_str().as_encoded_bytes().iter();
        let word = bytes.map(|&byte| match byte {
            b'\\' | b'\'' => format!("\\{}", byte as char),
            b' '..=b'~' => (byte as char).to_string(),
            // Octal digits are as many as they can be, so that what follows is not taken for one.
            _ => format!("\\{byte:03o}"),
        });
        return format!("$'{}'", word.collect::<String>());
    }
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "_-./\\:@%+=,".contains(c);
    match text.chars().all(plain) && !text.is_empty() && (cfg!(windows) || !text.contains('\\')) {
        true => text,
        false if cfg!(windows) => format!("\"{text}\""),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Tells a person, and a program if one listens.
struct Both {
    human: Human,
    json: Option<JsonEvents<std::io::Stdout>>,
}

impl Observer for Both {
    fn event(&mut self, event: &Event) {
        if let Some(json) = &mut self.json {
            json.event(event);
        }
        self.human.event(event);
    }

    fn last(&mut self, event: &Event) {
        if let Some(json) = &mut self.json {
            json.last(event);
        }
        self.human.last(event);
    }

    fn progress(&mut self, what: &str, done: u64, total: u64) {
        self.human.progress(what, done, total);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};

    use super::*;

    fn args(line: &[&str]) -> TrainArgs {
        let line = [&["finetune", "train"], line].concat();
        match Cli::try_parse_from(line).expect("parses").command {
            Command::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn text(path: PathBuf) -> String {
        path.into_os_string().into_string().expect("Unicode")
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = folder();
        let file = text(dir.path().join("c.toml"));
        fs::write(&file, "model = 'm'\ndata = 'd'\nrank = 4\nbatch = 2\nepochs = 2").expect("written");
        let settings = settings(args(&["--out", "o", "--config", &file, "--rank", "2", "--steps", "5"]));
        let run = settings.expect("settings").resolve("o".into()).expect("a run");
        assert_eq!((run.rank, run.batch, run.length), (Some(2), 2, crate::train::Length::Steps(5)));
        let missing = super::settings(args(&["--out", "o", "--config", "no.toml"])).expect_err("an error");
        assert!(super::super::output::sentence(&missing).starts_with("cannot read no.toml: "));
    }

    /// `--resume --out DIR` is enough, and says what would make another run of it.
    #[test]
    fn a_run_goes_on_as_it_was_started() {
        let dir = folder();
        let out = text(dir.path().join("run"));
        let error = settings(args(&["--out", &out, "--resume"])).expect_err("no run");
        assert!(error.to_string().contains("leave --resume out"), "{error}");

        let model = text(dir.path().join("m"));
        let begun = settings(args(&["--out", &out, "--model", &model, "--data", "d", "--steps", "5"]));
        let begun = begun.expect("settings").complete().absolute().expect("absolute");
        fs::create_dir(&out).expect("made");
        fs::write(dir.path().join("run/config.toml"), begun.to_toml().expect("TOML")).expect("written");

        assert_eq!(settings(args(&["--out", &out, "--resume"])).expect("goes on"), begun);
        // The same file by another name from here.
        assert_eq!(settings(args(&["--out", &out, "--resume", "--data", "./d"])).expect("goes on"), begun);
        let longer = settings(args(&["--out", &out, "--resume", "--steps", "9"])).expect("goes on");
        assert_eq!(longer.steps, Some(9));
        let error = settings(args(&["--out", &out, "--resume", "--seed", "9"])).expect_err("another run");
        assert!(error.to_string().starts_with("`--seed` is 9, but the run was started with 0"), "{error}");
    }

    #[test]
    fn the_first_loss_is_read_from_the_record() {
        let dir = folder();
        assert_eq!(first_loss(dir.path()), None);
        let record = "{\"event\":\"step\",\"st\n{\"event\":\"eval\",\"step\":0,\"loss\":3.5,\"tokens\":2}\n\
                      {\"event\":\"eval\",\"step\":5,\"loss\":2.5,\"tokens\":2}\n";
        fs::write(dir.path().join("metrics.jsonl"), record).expect("written");
        assert_eq!(first_loss(dir.path()), Some(3.5));
    }

    /// Also where a name is no Unicode.
    #[test]
    #[cfg(unix)]
    fn any_path_is_a_word_for_a_shell() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for name in [&b"a"[..], b"it's", b"b\xff7 it's \\ here", b"\xc3\xbc\xfe"] {
            let word = quoted(Path::new(OsStr::from_bytes(name)));
            let mut shell = std::process::Command::new("bash");
            let output = shell.args(["-c", &format!("printf %s {word}")]).output().expect("a shell");
            assert_eq!(output.stdout, name, "{word}");
        }
    }

    /// What is told to do next can be pasted into a shell.
    #[test]
    #[cfg(unix)]
    fn the_next_command_is_complete() {
        let line =
            ["--out", "my runs/a", "--model", "m", "--data", "d", "--valid", "it's", "--seq-len", "64"];
        let lora = settings(args(&[&line[..], &["--plugins", "p", "--backend", "cpu"]].concat()));
        let lora = lora.expect("settings");
        let config = lora.clone().resolve("my runs/a".into()).expect("a run");
        assert_eq!(
            evaluation(&config, &lora),
            r"finetune eval --model m --adapter 'my runs/a/adapter' --data 'it'\''s' --seq-len 64 --backend cpu --plugins p"
        );
        let full = settings(args(&["--out", "o", "--model", "m", "--data", "d", "--method", "full"]));
        let full = full.expect("settings");
        let config = full.clone().resolve("o".into()).expect("a run");
        assert_eq!(evaluation(&config, &full), "finetune eval --model o/model --data d");
    }
}

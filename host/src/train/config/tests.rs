use std::path::{Path, PathBuf};

use super::{ConfigError, Length, Method, Settings, file};

fn toml(text: &str) -> Settings {
    Settings::from_toml(text, Path::new("run.toml")).expect("settings")
}

fn toml_error(text: &str) -> String {
    Settings::from_toml(text, Path::new("run.toml")).expect_err("an error").to_string()
}

fn base() -> Settings {
    toml("model = 'm'\ndata = 'd.jsonl'")
}

fn resolve_error(text: &str) -> String {
    toml(text).overlay(base()).resolve("out".into()).expect_err("an error").to_string()
}

/// Every setting, each with a value that is not its default.
const EVERY: &str = "model = \"m\"\ndata = \"d\"\nvalid = \"v\"\nchat-template = \"t\"\nmethod = \"lora\"\nrank = 4\nalpha = 32.5\n\
    targets = \"attention\"\ndropout = 0.1\nadapter = \"a\"\nbatch = 16\nmicro-batch = 2\nseq-len = 64\n\
    steps = 7\nlr = 0.003\nschedule = \"cosine\"\nwarmup = 5\nweight-decay = 0.01\nbeta1 = 0.8\nbeta2 = 0.99\n\
    eps = 0.0000001\nclip = 0.5\nseed = 9\nno-shuffle = true\nprecision = \"bf16\"\nbackend = \"cpu:0\"\n\
    plugins = [\"p\", \"q\"]\nsave-every = 10\neval-every = 20\nreserve = \"2GiB\"\nverify = true\nstrict = true\n";

/// A run folder's settings are those that the run was started with.
#[test]
fn settings_survive_their_file() {
    let settings = toml(EVERY);
    assert_eq!(settings.to_toml().expect("TOML"), EVERY);
    let complete = base().complete();
    assert_eq!(toml(&complete.to_toml().expect("TOML")), complete);
}

/// A flag added to the command line is a key of the file by itself, and no key is without a flag.
#[test]
fn keys_are_the_flags() {
    let mut known = file::keys();
    known.retain(|k| k != "epochs");
    let keys: Vec<_> = EVERY.lines().filter_map(|l| l.split_once(" = ")).map(|(k, _)| k.to_owned()).collect();
    assert_eq!(keys, known);
}

/// The command line is nearer to the person than the file; one length replaces the other.
#[test]
fn upper_settings_win() {
    let over = toml("rank = 2\nepochs = 3\nplugins = ['x']").overlay(toml(EVERY));
    assert_eq!((over.rank, over.alpha, over.steps, over.epochs), (Some(2), Some(32.5), None, Some(3)));
    assert_eq!(over.plugins, [PathBuf::from("x")]);
    assert_eq!(Settings::default().overlay(toml(EVERY)), toml(EVERY));
    assert_eq!(toml(EVERY).overlay(Settings::default()), toml(EVERY));
    assert_eq!(toml("steps = 1").overlay(toml("epochs = 2")), toml("steps = 1"));
}

#[test]
fn defaults_are_those_that_help_names() {
    let run = base().resolve("out".into()).expect("a run");
    assert_eq!((run.method, run.rank, run.alpha), (Method::Lora, Some(8), Some(16.0)));
    assert_eq!((run.targets.as_deref(), run.dropout), (Some("all-linear"), Some(0.0)));
    assert_eq!((run.batch, run.micro_batch, run.seq_len), (8, 8, 512));
    assert_eq!((run.length, run.lr, run.warmup, run.clip), (Length::Epochs(1), 2e-4, 0, 1.0));
    assert_eq!((run.beta1, run.beta2, run.eps, run.weight_decay), (0.9, 0.999, 1e-8, 0.0));
    assert_eq!((run.seed, run.shuffle, run.save_every, run.eval_every), (0, true, 100, 0));
    let full = toml("method = 'full'\nbatch = 2").overlay(base()).resolve("out".into()).expect("a run");
    assert_eq!((full.lr, full.rank, full.targets, full.micro_batch), (2e-5, None, None, 2));
}

/// An adapter's own config says rank, alpha and targets; a default must not contradict it.
#[test]
fn defaults_do_not_contradict_an_adapter() {
    let run = toml("adapter = 'a'").overlay(base()).resolve("out".into()).expect("a run");
    assert_eq!((run.rank, run.alpha, run.targets, run.dropout), (None, None, None, None));
}

#[test]
fn micro_batch_is_at_most_the_batch() {
    let run = toml("batch = 4\nmicro-batch = 64").overlay(base()).resolve("out".into()).expect("a run");
    assert_eq!(run.micro_batch, 4);
}

#[test]
fn every_value_is_checked() {
    for (text, flag) in [
        ("rank = 0", "rank"),
        ("batch = 0", "batch"),
        ("micro-batch = 0", "micro-batch"),
        ("seq-len = 0", "seq-len"),
        ("steps = 0", "steps"),
        ("epochs = 0", "epochs"),
        ("alpha = 0", "alpha"),
        ("alpha = inf", "alpha"),
        ("dropout = 1.0", "dropout"),
        ("dropout = -0.1", "dropout"),
        ("lr = -1e-4", "lr"),
        ("lr = nan", "lr"),
        ("lr = inf", "lr"),
        ("weight-decay = -1", "weight-decay"),
        ("beta1 = 1.0", "beta1"),
        ("beta2 = 1.5", "beta2"),
        ("eps = 0", "eps"),
        ("clip = -1", "clip"),
        ("targets = ''", "targets"),
        ("targets = 'q_proj,,v_proj'", "targets"),
    ] {
        let error = resolve_error(text);
        assert!(error.starts_with(&format!("`{flag}` is ")) && error.contains(", but it must be"), "{error}");
    }
    let seed = Settings { seed: Some(u64::MAX), ..base() };
    assert!(seed.resolve("out".into()).expect_err("an error").to_string().starts_with("`seed` is 1844"));
    assert_eq!(resolve_error("lr = -0.1"), "`lr` is -0.1, but it must be a number, 0 or greater");
}

#[test]
fn adapter_settings_need_an_adapter() {
    for flag in ["rank = 1", "alpha = 1.0", "targets = 'q_proj'", "dropout = 0.0", "adapter = 'a'"] {
        let error = resolve_error(&format!("method = 'full'\n{flag}"));
        let name = flag.split(' ').next().expect("a name");
        assert!(error.contains(&format!("`{name}` is for adapters")), "{error}");
    }
}

#[test]
fn missing_settings_are_named() {
    let error = Settings::default().resolve("out".into()).expect_err("an error");
    assert!(matches!(error, ConfigError::Missing { flag: "model" }), "{error}");
    let error = toml("model = 'm'").resolve("out".into()).expect_err("an error");
    assert!(matches!(error, ConfigError::Missing { flag: "data" }), "{error}");
}

#[test]
fn errors_in_a_file_name_line_and_key() {
    let unknown = "run.toml, line 2: there is no setting";
    assert_eq!(toml_error("rank = 1\nxyz = 2"), format!("{unknown} `xyz`"));
    assert_eq!(
        toml_error("rank = 1\nbatch_size = 2"),
        format!("{unknown} `batch_size`; did you mean `batch`?")
    );
    assert_eq!(toml_error("\nseq_len = 2"), format!("{unknown} `seq_len`; did you mean `seq-len`?"));
    assert_eq!(
        toml_error("rank = 1\n\nout = 'x'"),
        "run.toml, line 3: `out`: this is said on the command line, with --out"
    );
    let error = toml_error("rank = 1\nmethod = 'loha'");
    assert!(error.starts_with("run.toml, line 2: `method`: unknown variant `loha`"), "{error}");
    let error = toml_error("rank = -1");
    assert!(error.starts_with("run.toml, line 1: `rank`: invalid value"), "{error}");
    let error = toml_error("rank = 1\nbatch 2");
    assert!(error.starts_with("run.toml, line 2: this is not TOML"), "{error}");
    assert!(toml_error("steps = 1\nepochs = 2").contains("both `steps` and `epochs`"));
}

/// A resumed run learns what it would have learned without the break.
#[test]
fn a_resumed_run_may_not_learn_something_else() {
    let saved = toml("lr = 0.001\nvalid = 'v'\nsteps = 10").overlay(base()).complete();
    let same = |text: &str| toml(text).resume_from(saved.clone());
    assert_eq!(same("").expect("agrees"), saved);
    assert_eq!(same("lr = 1e-3\nbatch = 8\nmodel = 'm'").expect("agrees"), saved);
    assert_eq!(
        same("lr = 0.002").expect_err("differs").to_string(),
        "`--lr` is 0.002, but the run was started with 0.001; leave the flag out to go on with the run, or \
         start a new one in another folder"
    );
    for (text, flag) in [
        ("model = 'n'", "model"),
        ("data = 'x'", "data"),
        ("batch = 4", "batch"),
        ("method = 'full'", "method"),
        ("adapter = 'a'", "adapter"),
        ("no-shuffle = true", "no-shuffle"),
        ("seed = 1", "seed"),
        ("precision = 'bf16'", "precision"),
    ] {
        match same(text).expect_err("differs") {
            ConfigError::Changed { flag: named, .. } => assert_eq!(named, flag),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_resumed_run_may_be_longer_and_elsewhere() {
    let saved = base().complete();
    let text = "steps = 50\nmicro-batch = 2\nvalid = 'w'\nsave-every = 1\neval-every = 2\nbackend = 'cpu'\n\
        plugins = ['p']";
    let on = toml(text).resume_from(saved.clone()).expect("may change");
    assert_eq!(on, toml(text).overlay(saved));
    assert_eq!((on.steps, on.epochs, on.micro_batch), (Some(50), None, Some(2)));
}

/// Paths in a run's folder mean the same from any working directory.
#[test]
fn absolute_settings_have_absolute_paths() {
    let settings = toml(EVERY).absolute().expect("a working directory");
    let named = [settings.model, settings.data, settings.valid, settings.adapter];
    assert!(named.into_iter().map(|p| p.expect("a path")).chain(settings.plugins).all(|p| p.is_absolute()));
}

//! All tests, with the plugins and the program as a user has them.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::{self, Built};
use crate::workspace::Workspace;
use crate::{mlx, process, real_model};

/// Tests with this in their name train the real model.
const REAL_MODEL: &str = "real_model";
/// Tests with this in their name need the MLX plugin.
const MLX_PLUGIN: &str = "mlx_plugin";
/// Tests with this in their name compile the candle plugin's kernels as C++.
const EMULATED_KERNELS: &str = "emulated_kernels";
/// Tests with this in their name change who they are.
const AS_ROOT: &str = "as_root";

/// Builds, then runs the tests whose name contains one of `filters` (all, if there are none).
pub fn run(workspace: &Workspace, with_real_model: bool, filters: &[String]) -> Result<ExitCode> {
    let built = build::everything(workspace)?;
    let model = with_real_model.then(|| real_model::folder(workspace)).transpose()?;
    let tests = Tests { workspace, built, model, filters };

    // The documentation's examples come first: the summary of the tests proper then closes the output.
    let examples = process::status(&mut tests.examples())?;
    let runner = if tests.has_nextest() { Runner::Nextest } else { Runner::Cargo };
    let main = process::status(&mut tests.main(runner))?;
    for (name, need) in tests.missing() {
        report_left_out(&tests.left_out(runner, name)?, need);
    }
    let failed = [main, examples].into_iter().find(|status: &ExitStatus| !status.success());
    Ok(failed.map_or(ExitCode::SUCCESS, process::exit_code))
}

#[derive(Clone, Copy)]
enum Runner {
    Nextest,
    Cargo,
}

struct Tests<'a> {
    workspace: &'a Workspace,
    built: Built,
    model: Option<PathBuf>,
    filters: &'a [String],
}

impl Tests<'_> {
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = self.workspace.cargo();
        let (command, rest) = split_at_dashes(arguments);
        cargo.args(command).args(self.workspace.feature_arguments()).args(rest);
        cargo.env("FINETUNE_BIN", &self.built.program).env("FINETUNE_PLUGINS_DIR", &self.built.plugins);
        if let Some(model) = &self.model {
            cargo.env("FINETUNE_REAL_MODEL", model);
        }
        cargo
    }

    fn has_nextest(&self) -> bool {
        let mut version = self.workspace.cargo();
        version.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    }

    fn examples(&self) -> Command {
        let mut cargo = self.cargo(&["test", "--quiet", "--workspace", "--doc", "--no-fail-fast", "--"]);
        cargo.args(self.filters);
        cargo
    }

    fn main(&self, runner: Runner) -> Command {
        let mut cargo = match runner {
            Runner::Nextest => self.cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "--"]),
            Runner::Cargo => self.cargo(&["test", "--workspace", "--tests", "--no-fail-fast", "--"]),
        };
        for (name, _) in self.missing() {
            cargo.args(["--skip", name]);
        }
        cargo.args(self.filters);
        cargo
    }

    /// What marks tests that cannot be run now, and what they need.
    fn missing(&self) -> Vec<(&'static str, &'static str)> {
        let model = self.model.is_none().then_some((REAL_MODEL, "--real-model"));
        let mlx = !self.workspace.features.contains(&mlx::FEATURE);
        let others = [
            (mlx, MLX_PLUGIN, "the MLX plugin"),
            (!mlx::has_cxx(), EMULATED_KERNELS, "a C++ compiler"),
            (!is_root(), AS_ROOT, "to be run by root"),
        ];
        let others =
            others.into_iter().filter_map(|(is_missing, name, need)| is_missing.then_some((name, need)));
        model.into_iter().chain(others).collect()
    }

    /// The tests that the filters choose and that are marked so.
    fn left_out(&self, runner: Runner, mark: &str) -> Result<Vec<String>> {
        let mut cargo = match runner {
            Runner::Nextest => self.cargo(&[
                "nextest",
                "list",
                "--workspace",
                "--cargo-quiet",
                "--message-format=json",
                "--",
            ]),
            Runner::Cargo => {
                self.cargo(&["test", "--quiet", "--workspace", "--tests", "--", "--list", "--format=terse"])
            }
        };
        let text = process::output(cargo.args(self.filters))?;
        let mut names = match runner {
            Runner::Nextest => {
                listed_by_nextest(&serde_json::from_str(&text).context("`cargo nextest list` wrote no JSON")?)
            }
            Runner::Cargo => listed_by_cargo_test(&text),
        };
        names.retain(|name| name.contains(mark));
        Ok(names)
    }
}

/// Where nobody can say, one is not.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// What cargo reads, and what the tests' own programs do.
fn split_at_dashes<'a, 'b>(arguments: &'a [&'b str]) -> (&'a [&'b str], &'a [&'b str]) {
    let dashes = arguments.iter().position(|argument| *argument == "--").unwrap_or(arguments.len());
    arguments.split_at(dashes)
}

fn listed_by_nextest(list: &Value) -> Vec<String> {
    let suites = list["rust-suites"].as_object().into_iter().flatten();
    suites.flat_map(|(_, suite)| chosen_of_suite(suite)).collect()
}

fn chosen_of_suite(suite: &Value) -> Vec<String> {
    let binary = suite["binary-id"].as_str().unwrap_or_default();
    let cases = suite["testcases"].as_object().into_iter().flatten();
    let chosen = cases.filter(|(_, case)| case["filter-match"]["status"] == "matches");
    chosen.map(|(name, _)| format!("{binary} {name}")).collect()
}

fn listed_by_cargo_test(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

fn report_left_out(names: &[String], need: &str) {
    if names.is_empty() {
        return;
    }
    eprintln!("\nnot run (needs {need}):");
    for name in names {
        eprintln!("  {name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A test that was left out and is not said to be would pass for one that ran.
    #[test]
    fn nextests_list_gives_the_chosen_tests_of_every_suite() {
        let case = |status: &str| json!({"ignored": false, "filter-match": {"status": status}});
        let list = json!({"rust-suites": {
            "tests::train": {"binary-id": "tests::train", "testcases": {
                "real_model_learns": case("matches"), "other": case("mismatch")}},
            "host": {"binary-id": "host", "testcases": {"loads_real_model": case("matches")}},
        }});
        assert_eq!(listed_by_nextest(&list), ["tests::train real_model_learns", "host loads_real_model"]);
    }

    /// The same without nextest; benchmarks and empty lines are no tests.
    #[test]
    fn cargo_tests_list_gives_the_tests() {
        let text = "real_model::learns: test\n\nspeed: benchmark\nsmall: test\n";
        assert_eq!(listed_by_cargo_test(text), ["real_model::learns", "small"]);
    }
}

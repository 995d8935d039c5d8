//! What the project does to itself: `cargo xtask test`, `sim`, `power`, `soak`, `compare`, `fuzz`, `schemathesis`, `tidy`,
//! and what every change must pass: `cargo xtask ci`.

mod bench;
mod ci;
mod compare;
mod fuzz;
mod power;
mod run;
mod schemathesis;
mod sdk;
mod sim;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Checks and tests of the Gridwire repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the program and run every test, those with the official SDKs included
    Test(test::TestArgs),
    /// Build the program and run only the tests with the official SDKs
    Sdk(test::SdkArgs),
    /// Run seeds of the simulation
    Sim(sim::SimArgs),
    /// Cut the power under the program, on a real file system; needs root
    Power(power::PowerArgs),
    /// All that continuous integration runs: format, lints, documentation, dependencies, conventions, tests
    Ci,
    /// What takes too long or too much space for every change: a large backlog, many seeds, kills and flipped bits
    Soak(soak::SoakArgs),
    /// Measure the program against what it was at another commit, in turns
    Compare(compare::CompareArgs),
    /// Feed everything that is parsed with anything
    Fuzz(fuzz::FuzzArgs),
    /// Send the running program whatever its interfaces' documents allow, and compare its answers with them
    Schemathesis(schemathesis::SchemathesisArgs),
    /// Check the conventions that no lint sees
    Tidy,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    match &cli.command {
        Command::Test(args) => test::run(&workspace, args),
        Command::Sdk(args) => test::run_sdk(&workspace, args),
        Command::Sim(args) => sim::run(&workspace, args),
        Command::Power(args) => power::run(&workspace, args),
        Command::Ci => ci::run(&workspace),
        Command::Soak(args) => soak::run(&workspace, args),
        Command::Compare(args) => compare::run(&workspace, args),
        Command::Fuzz(args) => fuzz::run(&workspace, args),
        Command::Schemathesis(args) => schemathesis::run(&workspace, args),
        Command::Tidy => tidy::run(&workspace),
    }
}

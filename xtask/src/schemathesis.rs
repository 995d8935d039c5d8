//! `cargo xtask schemathesis`: what `openapi/` says, against the real program, by requests that nobody thought of.

use std::fs;
use std::process::Command;

use clap::Args;

use crate::run::{heading, must};
use crate::sdk::{PROGRAM, python};
use crate::test::build;
use crate::workspace::Workspace;

/// What a change is judged by; another number is another test.
const SEED: u64 = 1;
const SECONDS: u32 = 300;

#[derive(Debug, Args)]
pub(crate) struct SchemathesisArgs {
    /// What the requests follow from; the same number makes the same ones, as far as the time goes
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// How long to send requests, all documents together
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
}

impl Default for SchemathesisArgs {
    fn default() -> Self {
        Self { seed: SEED, seconds: SECONDS }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &SchemathesisArgs) -> anyhow::Result<()> {
    must(&mut prepare(workspace, args)?)
}

/// Builds and installs what is needed; what is left to do needs no cargo, and can be done beside what does.
pub(crate) fn prepare(workspace: &Workspace, args: &SchemathesisArgs) -> anyhow::Result<Command> {
    heading("Program");
    let built = build(workspace, false)?;
    heading("The documents of the interfaces");
    let suite = workspace.root.join("tests/api");
    let place = workspace.target.join("schemathesis");
    let python = python::install(&suite, &place)?;
    // Another build may take the program away under the requests.
    let program = place.join("gridwire").with_extension(std::env::consts::EXE_EXTENSION);
    fs::copy(built, &program)?;
    let mut requests = Command::new(python);
    requests.arg(suite.join("run.py")).args([args.seed.to_string(), args.seconds.to_string()]);
    requests.env(PROGRAM, program).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(requests)
}

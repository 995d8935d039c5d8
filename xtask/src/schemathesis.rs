//! `cargo xtask schemathesis`: what `openapi/` says, against the real program, by requests that nobody thought of.

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
    heading("Program");
    let program = build(workspace, false)?;
    heading("The documents of the interfaces");
    let suite = workspace.root.join("tests/api");
    let python = python::install(&suite, &workspace.target.join("schemathesis"))?;
    let mut requests = Command::new(python);
    requests.arg(suite.join("run.py")).args([args.seed.to_string(), args.seconds.to_string()]);
    must(requests.env(PROGRAM, program).env("PYTHONDONTWRITEBYTECODE", "1"))
}

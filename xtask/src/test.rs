//! `cargo xtask test`: the program, the tests written in Rust, and the official SDKs against the program.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;

use crate::run::{cargo, heading, must};
use crate::sdk::{javascript, python};
use crate::workspace::Workspace;

#[derive(Debug, Default, Args)]
pub(crate) struct TestArgs {
    /// Leave out the tests with the Python and JavaScript SDKs, which need python3, node and a package registry
    #[arg(long)]
    skip_sdk: bool,
    #[command(flatten)]
    sdk: SdkArgs,
    /// What makes some tests do more than is quick: variable and value
    #[arg(skip)]
    more: Vec<(&'static str, &'static str)>,
}

impl TestArgs {
    /// Every test, with these variables.
    pub(crate) fn with(more: &[(&'static str, &'static str)]) -> Self {
        Self { more: more.to_vec(), ..Self::default() }
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct SdkArgs {
    /// Run the SDKs against a release build
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> anyhow::Result<()> {
    heading("Tests in Rust");
    must(cargo(&workspace.root).args(["test", "--locked", "--workspace"]).envs(args.more.iter().copied()))?;
    if args.skip_sdk { Ok(()) } else { run_sdk(workspace, &args.sdk) }
}

pub(crate) fn run_sdk(workspace: &Workspace, args: &SdkArgs) -> anyhow::Result<()> {
    heading("Program");
    let program = build(workspace, args.release)?;
    heading("Python SDK");
    python::test(workspace, &program)?;
    heading("JavaScript SDK");
    javascript::test(workspace, &program)
}

/// Builds the program; the answer is where it is.
pub(crate) fn build(workspace: &Workspace, release: bool) -> anyhow::Result<PathBuf> {
    let mut build = cargo(&workspace.root);
    build.args(["build", "--locked", "--package", "gridwire", "--bin", "gridwire"]);
    if release {
        build.arg("--release");
    }
    must(&mut build)?;
    let profile = if release { "release" } else { "debug" };
    let program =
        workspace.target.join(profile).join("gridwire").with_extension(std::env::consts::EXE_EXTENSION);
    ensure!(program.is_file(), "the build did not leave `{}`", program.display());
    Ok(program)
}

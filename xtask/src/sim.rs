//! `cargo xtask sim`: the simulation of the broker, built in its own profile with its planted bugs in.

use clap::Args;

use crate::run::{cargo, must};
use crate::workspace::Workspace;

#[derive(Debug, Default, Args)]
pub(crate) struct SimArgs {
    /// What the simulation is told: `--seed N`, `--seeds N`, `--planted`, and more with `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl SimArgs {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self { args: args.iter().map(|arg| (*arg).to_owned()).collect() }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &SimArgs) -> anyhow::Result<()> {
    let mut sim = cargo(&workspace.root);
    sim.args(["run", "--locked", "--quiet", "--package", "gridwire-sim", "--features", "planted"]);
    must(sim.args(["--profile", "sim", "--"]).args(&args.args))
}

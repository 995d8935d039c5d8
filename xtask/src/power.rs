//! `cargo xtask power`: power cuts under the real program; see `crates/gridwire/tests/power_cut.rs`.

use clap::Args;

use crate::run::{cargo, must};
use crate::workspace::Workspace;

/// The test that cuts; the others of its program, which show that it can fail, run with every other test.
const TEST: &str = "cutting_the_power_again_and_again_loses_nothing_that_was_answered_for";

#[derive(Debug, Args)]
pub(crate) struct PowerArgs {
    /// How often to cut the power; at most a hundred times on one disk
    #[arg(long, default_value_t = 100)]
    cuts: u32,
    /// The seed that a failed run printed: the same plan, as far as a real process can be repeated
    #[arg(long)]
    seed: Option<u64>,
}

impl PowerArgs {
    pub(crate) fn new(cuts: u32) -> Self {
        Self { cuts, seed: None }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &PowerArgs) -> anyhow::Result<()> {
    let mut test = cargo(&workspace.root);
    test.args(["test", "--locked", "--package", "gridwire", "--test", "power_cut", "--", "--exact", TEST]);
    test.arg("--nocapture").env("GRIDWIRE_POWER_CUTS", args.cuts.to_string());
    if let Some(seed) = args.seed {
        test.env("GRIDWIRE_POWER_SEED", seed.to_string());
    }
    must(&mut test)
}
